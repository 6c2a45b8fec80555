"""By what a result was made is found out, holds no secrets, and never stops a run."""

import ast
import hashlib
import json
import os
import shlex
import shutil
import subprocess

import pytest
import torch
from mmengine.config import Config

from backbones.errors import UserError
from mmengine_plugin.engine.record_hook import RecordHook
from mmengine_plugin.provenance import (
    environment,
    git_state,
    has_commit,
    identity,
    identity_of_folder,
    read_log,
    training_of,
    without_secrets,
)
from tests.conftest import ROOT


@pytest.mark.skipif(shutil.which('git') is None, reason='git is not installed')
def test_the_commit_of_a_checkout_is_told_and_whether_it_has_other_files(tmp_path, monkeypatch):
    def git(*arguments):
        author = ['-c', 'user.name=a', '-c', 'user.email=a@example.org', '-c', 'commit.gpgsign=false']
        done = subprocess.run(['git', *author, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git('init')
    (tmp_path / '.gitignore').write_text('work_dirs/\n')
    (tmp_path / 'code.py').write_text('1\n')
    git('add', '.')
    git('commit', '-m', 'a')
    commit = git('rev-parse', 'HEAD')
    (tmp_path / 'work_dirs').mkdir()
    (tmp_path / 'work_dirs/log').write_text('')
    assert git_state(tmp_path) == (commit, False)
    assert git_state(tmp_path / 'work_dirs') == (None, None)  # an installed package in somebody's checkout
    (tmp_path / 'new.py').write_text('')
    assert git_state(tmp_path) == (commit, True)
    (tmp_path / 'new.py').unlink()
    (tmp_path / 'code.py').write_text('2\n')
    assert git_state(tmp_path) == (commit, True)
    monkeypatch.setenv('PATH', str(tmp_path))
    assert git_state(tmp_path) == (None, None)


def test_a_folder_without_git_has_no_commit(tmp_path):
    assert git_state(tmp_path) == (None, None)


def test_the_environment_is_plain_and_has_none_of_the_variables(monkeypatch):
    monkeypatch.setenv('WANDB_API_KEY', 'do-not-tell')
    monkeypatch.setattr('sys.argv', ['train.py', f'{os.path.expanduser("~")}/mine.py', 'a.api_key=do-not-tell'])
    found = environment()
    text = json.dumps(found)
    assert json.loads(text) == found and 'do-not-tell' not in text and '~/mine.py a.api_key=...' in found['command']
    assert sum(found['devices'].values()) == 1 and found['threads'] == torch.get_num_threads()
    assert found['date'].endswith('+00:00') and found['versions']['torch'].startswith(torch.__version__.split('+')[0])


def test_secrets_and_the_home_folder_are_left_out_and_the_text_stays_python(monkeypatch):
    monkeypatch.setenv('HOME', '/home/alice')
    text = "a = dict(api_key='x1', hf_token='x2', password='x3', path='/home/alice/data', other='/home/alice2', lr=0.1)"
    said = without_secrets(text)
    assert said == (
        "a = dict(api_key='...', hf_token='...', password='...', path='~/data', other='/home/alice2', lr=0.1)"
    )


# the text of a setting, and what is left of it
SETTINGS = [
    ("a = 'https://bob:x1@example.org/a@b.pth'", "a = 'https://...@example.org/a@b.pth'"),
    ("a = {'x-api-key': 'x1', \"api_key\": 'x2'}", "a = {'x-api-key': '...', \"api_key\": '...'}"),
    ("a = {'Authorization': 'Basic x1', 'b': 'Bearer x1'}", "a = {'Authorization': '...', 'b': 'Bearer ...'}"),
    (
        "a = dict(aws_secret_access_key='x1', access_key_id='x2')",
        "a = dict(aws_secret_access_key='...', access_key_id='...')",
    ),
    ("é = dict(é='é', wandb_key='é x1', pwd=b'x2')\nb = 1", "é = dict(é='é', wandb_key='...', pwd='...')\nb = 1"),
    ("a = dict(password='it\\'s \"x1, x2', b=2)", "a = dict(password='...', b=2)"),
    ("secret = '''x1\nx2'''\nb = 1", "secret = '...'\nb = 1"),
    ("a = 'train.py --token x1 --password=x2'", "a = 'train.py --token ... --password=...'"),
    ("a = 'https://example.org/a.pth?token=x1&b=2'", "a = 'https://example.org/a.pth?token=...&b=2'"),
]
# what only sounds like a secret
UNCHANGED = [
    "a = dict(tokens=['b', 'c'], num_tokens=100, cls_token=True, token=None, secret=[1, 2], password=dict(b='c'))",
    "a = dict(token_mixer='conv', tokenizer='b', bearer='c', init_cfg='https://example.org/a.pth', lr=float('inf'))",
    "a = {'key': 'b', 'tokens': ('c',)}",
    'python tools/train.py a.py --cfg-options model.cls_token=True num_tokens=100 data=[a@b] --seed 0',
]
WORDS = [
    ('train.py --token x1 --seed 0', 'train.py --token ... --seed 0'),
    ('train.py --password=x1 a.api_key=x2', 'train.py --password=... a.api_key=...'),
    ('curl -H \'Authorization: Bearer x1\' -H "x-api-key: x2"', 'curl -H \'Authorization: ...\' -H "x-api-key: ..."'),
    ('train.py a.password=\'x1 x2\' --pwd "x3 x4" b', 'train.py a.password=\'...\' --pwd "..." b'),
    ("train.py 'a.secret=x1 x2' b", "train.py 'a.secret=...' b"),
    ('pip install git+https://x1@example.org/a', 'pip install git+https://...@example.org/a'),
]


@pytest.mark.parametrize(('text', 'left'), [*SETTINGS, *WORDS, *((text, text) for text in UNCHANGED)])
def test_known_forms_of_secrets_are_masked_and_nothing_else(text, left):
    assert without_secrets(text) == left
    assert without_secrets(left) == left
    if text not in [words for words, _ in WORDS] and text.count(' = '):
        ast.parse(left)


def test_the_configs_of_this_project_have_no_secrets_and_stay_as_they_are():
    for name in ('mask_rcnn_mambaout_tiny', 'imagenet_mambaout_tiny'):
        text = Config.fromfile(ROOT / f'configs/{name}.py').pretty_text
        assert without_secrets(text) == text, name


def test_an_argument_of_a_command_is_masked_as_a_whole(monkeypatch):
    words = [
        'a.password=it\'s "x1", x2',
        '--token',
        'x1 x2',
        '--cls_token=True',
        'a.b=https://c:x1@example.org/',
        '--api-key',
    ]
    monkeypatch.setattr('sys.argv', ['train.py', *words, 'x3'])
    assert shlex.split(environment()['command'])[2:] == [
        'a.password=...',
        '--token',
        '...',
        '--cls_token=True',
        'a.b=https://...@example.org/',
        '--api-key',
        '...',
    ]


@pytest.mark.skipif(shutil.which('git') is None, reason='git is not installed')
def test_a_commit_is_looked_up_where_the_whole_history_is(tmp_path):
    author = ['-c', 'user.name=a', '-c', 'user.email=a@example.org', '-c', 'commit.gpgsign=false']
    (tmp_path / 'a').mkdir()
    for command in (['init'], *[['commit', '--allow-empty', '-m', message] for message in 'ab']):
        subprocess.run(['git', *author, *command], cwd=tmp_path / 'a', check=True, capture_output=True)
    commit, _ = git_state(tmp_path / 'a')
    assert has_commit(tmp_path / 'a', commit) and has_commit(tmp_path / 'a', '0' * 40) is False
    clone = ['git', 'clone', '--depth', '1', (tmp_path / 'a').as_uri(), tmp_path / 'shallow']
    subprocess.run(clone, check=True, capture_output=True)
    assert has_commit(tmp_path / 'shallow', '0' * 40) is None and has_commit(tmp_path, commit) is None


def test_a_place_for_the_record_that_cannot_be_written_to_is_refused_before_the_test(tmp_path):
    (tmp_path / 'file').write_text('')
    for name in ('file/record.json', 'file/folder'):
        with pytest.raises(UserError, match=f'cannot write to {tmp_path}/file'):
            RecordHook(Config(dict(a=1)), str(tmp_path / name), tta=False)
    assert RecordHook(Config(dict(a=1)), str(tmp_path / 'new'), tta=False).path == tmp_path / 'new/record.json'


def test_files_and_folders_are_recognised_by_their_content_and_names(tmp_path):
    for name in ('a', 'b'):
        (tmp_path / name / 'deep').mkdir(parents=True)
        (tmp_path / name / 'deep/1.png').write_bytes(b'one')
    assert identity(tmp_path / 'a/deep/1.png') == dict(file='1.png', sha256=hashlib.sha256(b'one').hexdigest(), bytes=3)
    same, other = identity_of_folder(tmp_path / 'a'), identity_of_folder(tmp_path / 'b')
    assert same['sha256'] == other['sha256'] and same['bytes'] == 3
    (tmp_path / 'b/deep/1.png').rename(tmp_path / 'b/deep/2.png')
    assert identity_of_folder(tmp_path / 'b')['sha256'] != same['sha256']
    (tmp_path / 'a/deep/1.png').write_bytes(b'two')
    assert identity_of_folder(tmp_path / 'a')['sha256'] != same['sha256']


def test_a_training_is_the_sum_of_its_starts_and_its_peak_is_that_of_its_logs(tmp_path):
    starts = [dict(log=f'{n}/vis_data/scalars.json', seconds=1800.0 * n, iteration=0) for n in (1, 2)]
    for n, memory in ((1, 700), (2, 500)):
        path = tmp_path / starts[n - 1]['log']
        path.parent.mkdir(parents=True)
        path.write_text(f'{{"memory": {memory}, "loss": 1.0}}\n{{"memory": 900, "lo')  # a kill has cut the last line
    assert read_log(tmp_path / starts[0]['log']) == [dict(memory=700, loss=1.0)]
    found = training_of(dict(epoch=3, iter=30, starts=starts), tmp_path)
    assert (found['epochs'], found['iterations'], found['hours']) == (3, 30, 1.5)
    assert found['peak_memory_bytes'] == 700 * 2**20 and [log['path'] for log in found['logs']] == [
        start['log'] for start in starts
    ]
    without = training_of(dict(epoch=3, iter=30), tmp_path)  # a checkpoint of another program
    assert (without['hours'], without['starts'], without['logs']) == (None, [], [])
