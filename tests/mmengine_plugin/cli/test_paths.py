"""Paths in a config may begin with ``~`` or an environment variable; control characters in them are refused."""

import argparse

import pytest
from mmengine.config import Config

from backbones import UserError
from mmengine_plugin.cli.configs import load_config, load_run
from mmengine_plugin.cli.paths import expand_paths
from tests.conftest import DETECTION


def test_paths_are_expanded_everywhere(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('MY_DATA', '/disk')
    path = tmp_path / 'mine.py'
    path.write_text(
        f"_base_ = {str(DETECTION)!r}\nwork_dir = '~/runs/x'\nload_from = '~/w.pth'\n"
        "data = dict(data_root='$MY_DATA/coco/', data_prefix=dict(img='~/images/'), ann_file='a~b.json')\n"
        "train_dataloader = dict(dataset=data)\nval_evaluator = dict(ann_file='${MY_DATA}/a.json')\n"
    )
    cfg = load_config(str(path), {})
    assert (cfg.work_dir, cfg.load_from) == (f'{tmp_path}/runs/x', f'{tmp_path}/w.pth')
    dataset = cfg.train_dataloader.dataset
    assert (dataset.data_root, dataset.data_prefix.img) == ('/disk/coco/', f'{tmp_path}/images/')
    assert dataset.ann_file == 'a~b.json'
    assert cfg.val_evaluator.ann_file == '/disk/a.json'


@pytest.mark.parametrize('option', [None, '~/runs/y'])
def test_the_work_directory_is_below_the_home_directory(option, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'mine.py'
    path.write_text(f"_base_ = {str(DETECTION)!r}\nwork_dir = '~/runs/x'\n")
    cfg = load_run(
        argparse.Namespace(config=str(path), cfg_options={}, launcher='none', work_dir=option, trust_checkpoint=False)
    )
    assert cfg.work_dir == f'{tmp_path}/home/runs/{"y" if option else "x"}'
    assert not (tmp_path / '~').exists()


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        ('C:\\data\tset', r"train_dataloader.dataset.data_root is 'C:\\\\data\\tset', .*'\\t' as one character"),
        ('data\new', r"'\\n' as one character: write /"),
        ('$NO_SUCH_VARIABLE/coco', 'this environment variable is not set: export it'),
    ],
)
def test_a_path_that_cannot_be_meant_is_refused(value, message, monkeypatch):
    monkeypatch.delenv('NO_SUCH_VARIABLE', raising=False)
    cfg = Config(dict(train_dataloader=dict(dataset=dict(data_root='data/coco'))))
    expand_paths(cfg)
    cfg.train_dataloader.dataset.data_root = value
    with pytest.raises(UserError, match=message):
        expand_paths(cfg)


def test_other_texts_may_hold_line_breaks():
    cfg = Config(dict(model=dict(prompt='a cat\na dog', home='~/x'), ann_file=['a.json', 'b.json']))
    expand_paths(cfg)
    assert cfg.model.prompt == 'a cat\na dog' and cfg.model.home == '~/x'
