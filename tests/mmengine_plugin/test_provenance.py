"""By what a result was made is found out, holds no secrets, and never stops a run."""

import hashlib
import json
import os
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
    identity,
    identity_of_folder,
    read_log,
    training_of,
    without_secrets,
)


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
    text = (
        "a = dict(api_key='x1', hf_token=\"x2\", password='x3', path='/home/alice/data', other='/home/alice2', lr=0.1)"
    )
    said = without_secrets(text)
    assert said == (
        "a = dict(api_key='...', hf_token=\"...\", password='...', path='~/data', other='/home/alice2', lr=0.1)"
    )
    names: dict = {}
    exec(without_secrets(text.replace("'x1'", 'True')), names)  # of a setting that only sounds like one
    assert names['a']['lr'] == 0.1


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
