"""The documents' commands run, their configs build, and what they quote of the programs is asserted by a test."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from tests.conftest import CLASSIFICATION, DETECTION, ROOT, SEGMENTATION

PROJECTS = sorted(ROOT.glob('projects/*/README.md'))


def blocks(page: str | Path, language: str) -> list[str]:
    """The blocks of code of a page, by its name in ``docs/`` or by its absolute path."""
    return re.findall(rf'```{language}\n(.*?)```', (ROOT / 'docs' / page).read_text(), re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """The words of each command of a page that runs a program of ``tools/``, from the program's name on."""
    lines = '\n'.join(blocks(page, 'bash')).replace('\\\n', ' ').splitlines()
    matches = (re.search(r'(?:^|\s)tools/(\w+\.(?:py|sh)(?: .*)?)$', line) for line in lines)
    return [shlex.split(match[1]) for match in matches if match]


@pytest.fixture
def checkout(tmp_path) -> Path:
    """An empty folder that has the programs and the configs of this one."""
    for name in ('configs', 'projects', 'tools'):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


@pytest.mark.full_size
def test_the_first_steps_run_as_they_are_typed(checkout, tool):
    steps = commands('getting_started.md')
    assert [program for program, *_ in steps].count('train.py') == 3
    for words in steps:
        done = tool(*words, cwd=checkout)
        assert done.returncode == 0, (words, done.stdout[-2000:])
    assert (checkout / 'work_dirs/mask_rcnn_mambaout_mini/epoch_2.pth').is_file()
    assert list((checkout / 'pictures').iterdir())


def on_one_process(program: str, *arguments: str) -> list[str]:
    """What a launcher starts in each process, less what makes it one of several."""
    python = program.split('_')[-1].replace('.sh', '.py')
    if program.startswith('slurm'):
        _, _, config, place, *rest = arguments
        return [python, config, *(['--work-dir', place] if python == 'train.py' else [place]), *rest]
    if program.startswith('dist'):
        count = 1 if python == 'train.py' else 2
        return [python, *arguments[:count], *arguments[count + 1 :]]
    return [python, *arguments]


@pytest.mark.parametrize(
    'words',
    [
        words
        for page in ('training.md', 'recipes.md', 'resuming.md', 'models.md', 'imagenet.md', 'experiments.md')
        for words in commands(page)
        if words[0] not in ('slurm_array.sh', 'soak.py', 'check_dataset.py', 'benchmark.py') and '--report' not in words
    ],
    ids=' '.join,
)
def test_a_command_for_gpus_and_coco_gets_as_far_as_the_data(words, checkout, tool, monkeypatch):
    """Its arguments, config and options are right; this machine need have neither."""
    for variable, size in re.findall(r'^(\w+_SIZE)=(\w+) python', (ROOT / 'docs/models.md').read_text(), re.M):
        monkeypatch.setenv(variable, size)
    done = tool(*on_one_process(*words), cwd=checkout)
    assert done.returncode == 1
    missing = r'error: ((annotation file|img_path) .* is not there|data/\w+ does not exist: put )'
    assert re.match(missing, done.stdout.splitlines()[-1]), done.stdout


def test_the_readmes_example_trains_the_backbone_and_gives_maps_of_the_shapes_in_its_comment():
    (text,) = blocks(ROOT / 'README.md', 'python')
    names: dict[str, Any] = {}
    exec(text, names)
    shapes = re.search(r'^maps = .*# (.*)$', text, re.M)[1]
    assert ', '.join(str(tuple(m.shape)) for m in names['maps']) == shapes
    assert all(parameter.grad.isfinite().all() for parameter in names['backbone'].parameters())


@pytest.mark.parametrize(
    ('page', 'text'),
    [
        (page, text)
        for page in ('experiments.md', 'imagenet.md', 'inheriting.md', 'models.md', 'recipes.md', 'training.md')
        for text in blocks(page, 'python')
        if '.apis' not in text  # a program
    ],
)
def test_a_config_that_is_shown_builds(page, text, tmp_path):
    (tmp_path / 'mine.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'mine.py')
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert type(model.backbone).__name__ == ('VMamba' if page in ('imagenet.md', 'models.md') else 'MambaOut')


def test_predictions_are_made_as_they_are_typed(checkout, tool, mini_data):
    names = dict(dataset_meta=dict(classes=('a', 'b', 'c', 'd', 'e', 'f')))  # the classifier's folders are not here
    for name, config, meta in (
        ('detector', DETECTION, {}),
        ('segmentor', SEGMENTATION, {}),
        ('classifier', CLASSIFICATION, names),
    ):
        cfg = Config.fromfile(config)
        init_default_scope(cfg.default_scope)
        torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta=meta), checkout / f'{name}.pth')
    images = sorted((mini_data / 'data/mini/coco/val2017').iterdir())
    (checkout / 'folder').mkdir()
    for image, place in zip(images, ('photo.jpg', 'folder/a.jpg'), strict=False):
        shutil.copy(image, checkout / place)
    for words in commands('predicting.md'):
        done = tool(*words, cwd=checkout)
        assert done.returncode == 0, (words, done.stdout[-2000:])
        out = checkout / words[words.index('--out-dir') + 1]
        assert (out / 'predictions.json').is_file() and list((out / 'pictures').rglob('*.png'))
    for text in blocks('predicting.md', 'python'):
        subprocess.run([sys.executable, '-c', text], cwd=checkout, check=True)
    assert (checkout / 'theirs').is_dir()


def test_what_is_said_of_long_sequences_is_what_the_program_says(checkout, tool):
    printed = []
    for words in commands('long_sequence.md'):
        done = tool(*words, cwd=checkout)
        assert done.returncode == 0, (words, done.stdout[-2000:])
        printed += done.stdout.splitlines()
    shown = [line for text in blocks('long_sequence.md', 'text') for line in text.splitlines()]
    assert len(shown) > 10 and set(shown) <= set(printed)
    assert (checkout / 'work_dirs/long_sequence.png').is_file()


def test_the_probes_tables_are_those_of_its_run():
    project = ROOT / 'projects/long_range_probe'
    assert (project / 'results/probe.md').read_text() in (project / 'README.md').read_text()


@pytest.mark.parametrize('page', PROJECTS, ids=lambda page: page.parent.name)
def test_a_projects_page_names_programs_and_configs_that_exist(page):
    words = [word for text in blocks(page, 'bash') for word in text.split()]
    named = [word for word in words if word.startswith(('configs/', 'projects/', 'tools/'))]
    assert len(named) > 0 and all((ROOT / word).is_file() for word in named)


@pytest.mark.full_size
def test_the_probes_commands_run_as_they_are_typed_but_for_their_length(checkout, tool):
    length = [
        'train_cfg.max_iters=2',
        'param_scheduler.0.end=1',
        'param_scheduler.1.begin=1',
        'param_scheduler.1.end=2',
    ]
    short = {
        'probe.py': ['--models', 'vit', '--seeds', 0, '--images', 8, '--iterations', 10],
        'cues.py': ['--images', 8],
        'train.py': ['--cfg-options', *length, 'default_hooks.checkpoint.interval=2'],
    }
    for text in blocks(ROOT / 'projects/long_range_probe/README.md', 'bash'):
        for line in text.splitlines():
            program, *arguments = line.removeprefix('python ').split()
            done = tool(ROOT / program, *arguments, *short[Path(program).name], cwd=checkout)
            assert done.returncode == 0, (line, done.stdout[-2000:])
    assert (checkout / 'probe/probe.md').is_file() and (checkout / 'work_dirs/vit/iter_2.pth').is_file()


def test_every_message_that_is_quoted_is_asserted_by_a_test():
    rows = re.findall(r'^\| (?!what happened|---).*?\| (.*?) \|', (ROOT / 'docs/troubleshooting.md').read_text(), re.M)
    quoted = [part.strip() for row in rows for quote in re.findall('`(.+?)`', row) for part in quote.split('…')]
    assert len(rows) > 30
    own = Path(__file__).resolve()
    tests = '\n'.join(p.read_text() for p in (ROOT / 'tests').rglob('*.py') if p.resolve() != own)
    assert [part for part in quoted if part not in tests] == []


def test_every_link_leads_somewhere():
    for page in [*ROOT.glob('*.md'), *ROOT.glob('docs/*.md'), *PROJECTS]:
        for link in re.findall(r'\]\(([^)]+)\)', page.read_text()):
            place, _, anchor = link.partition('#')
            if '://' in place:
                continue
            target = page.parent / place if place else page
            assert target.exists(), f'{page.name}: {link}'
            if anchor:
                titles = re.findall(r'^#+ (.*)', target.read_text(), re.M)
                anchors = [re.sub(r'[^\w\- ]', '', title.lower()).replace(' ', '-') for title in titles]
                assert anchor in anchors, f'{page.name}: {link}'
