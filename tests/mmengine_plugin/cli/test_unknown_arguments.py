"""A class that is built with wrong arguments is answered by one line that names the place in the config."""

import re
import sys
from pathlib import Path

import pytest
from mmdet.utils import register_all_modules
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, VISBACKENDS, init_default_scope
from torch.utils.data import DataLoader

import mmdet_plugin  # noqa: F401  (registers the data sets)
from mmengine_plugin.cli.configs import load_config
from mmengine_plugin.cli.error_messages import run

register_all_modules(init_default_scope=False)
PIPELINE = "pipeline = [dict(type='LoadImageFromFile'), {}]\ntrain_dataloader = dict(dataset=dict(pipeline=pipeline))"
SET, STEP = 'train_dataloader.dataset', 'train_dataloader.dataset.pipeline.1'


def build(cfg: Config) -> None:
    """Build what a training builds, as far as a config without data goes."""
    init_default_scope('mmdet')
    DATASETS.build(dict(cfg.train_dataloader.dataset, lazy_init=True))
    loader = {
        key: cfg.train_dataloader[key] for key in ('batch_size', 'samples_per_gpu') if key in cfg.train_dataloader
    }
    DataLoader([1, 2], **loader)
    if 'pretrained' in cfg.model:
        MODELS.build(cfg.model)


def answer(folder: Path, text: str) -> str | None:
    """What a program says that builds a user's config; ``None`` if it does not end with an error."""
    path = folder / 'mine.py'
    (folder / 'base.py').write_text(
        "default_scope = 'mmdet'\nmodel = dict(type='MaskRCNN')\n"
        "dataset = dict(type='CheckedCocoDataset', ann_file='a.json', pipeline=[])\n"
        'train_dataloader = dict(batch_size=2, dataset=dataset)\n'
    )
    path.write_text(f"_base_ = 'base.py'\n{text}\n")
    try:
        run(lambda: build(load_config(str(path), {})))
    except SystemExit as end:
        return str(end.code)
    return None


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        (
            PIPELINE.format("dict(type='Resize', img_scale=(8, 8))"),
            f"{STEP}: Resize has no argument 'img_scale'; .*scale=",
        ),
        (PIPELINE.format("dict(type='RandomFlip', flip_ratio=0.5)"), f'{STEP}: RandomFlip .*write prob='),
        (
            PIPELINE.format("dict(type='Resize', scale=(8, 8), keep_ration=True)"),
            f"{STEP}: Resize has no argument 'keep_ration' .did you mean 'keep_ratio'",
        ),
        (PIPELINE.format("dict(type='Normalize', mean=[1, 2, 3])"), f"{STEP}: Normalize needs the argument 'std': set"),
        (
            PIPELINE.format("dict(type='DefaultFormatBundle')"),
            f'{STEP}.type: DefaultFormatBundle is a transform of mmdet 2.x .*write PackDetInputs',
        ),
        (PIPELINE.format("dict(type='Resise')"), f"{STEP}.type: Resise is not registered .*did you mean 'Resize'"),
        (f"{SET.replace('.', ' = dict(')}=dict(img_prefix='a'))", f"{SET}: .*'img_prefix'.*data_prefix=dict.img="),
        (f"{SET.replace('.', ' = dict(')}=dict(classes=('a',)))", f'{SET}: .*metainfo=dict.classes='),
        ("model = dict(pretrained='x.pth')", "model: MaskRCNN has no argument 'pretrained'.*init_cfg"),
        ('train_dataloader = dict(samples_per_gpu=2)', "train_dataloader: DataLoader .*'samples_per_gpu'.*batch_size="),
    ],
)
def test_a_wrong_argument_is_answered_with_its_place_and_the_right_one(text, words, tmp_path):
    message = answer(tmp_path, text)
    assert message is not None and '\n' not in message and len(message) < 700
    assert re.search(words, message), message


def test_right_arguments_are_not_answered(tmp_path):
    assert answer(tmp_path, PIPELINE.format("dict(type='Resize', scale=(8, 8), keep_ratio=True)")) is None


def test_an_error_that_no_section_of_the_config_explains_keeps_its_traceback(tmp_path):
    class Mine:
        def __init__(self) -> None:
            pass

    assert answer(tmp_path, '') is None  # the config is read
    with pytest.raises(TypeError, match="unexpected keyword argument 'size'"):
        run(lambda: Mine(size=3))


def test_a_missing_backend_of_the_visualizer_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'wandb', None)  # as if it were not installed
    backend = VISBACKENDS.build(dict(type='WandbVisBackend', save_dir=str(tmp_path)))
    with pytest.raises(SystemExit) as end:
        run(lambda: backend.experiment)
    assert 'pip install wandb' in end.value.code and 'remove its backend from visualizer.vis_backends' in end.value.code
    with pytest.raises(ImportError):  # a broken installation keeps its traceback
        run(lambda: __import__('no_such_module'))
