"""Settings of mmdet 2.x and mmseg 0.x are refused with what to write today; variables of their names are accepted."""

import logging
from collections.abc import Iterator
from pathlib import Path

import mmseg
import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger

import mmdet_plugin  # noqa: F401  (registers the data sets)
import mmseg_plugin  # noqa: F401
from backbones import UserError
from mmdet_plugin.data.datasets import CheckedCocoDataset
from mmengine_plugin.cli.configs import load_config
from mmseg_plugin.data.datasets import FolderDataset
from tests.conftest import DETECTION, SEGMENTATION

RECIPES = Path(mmseg.__path__[0], '.mim/configs')  # of the installed mmseg
OLD = {
    "optimizer = dict(type='SGD', lr=0.5)": "optimizer -> optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.5))",
    'optimizer_config = dict(grad_clip=dict(max_norm=35))': 'optim_wrapper=dict(clip_grad=dict(max_norm=35))',
    "lr_config = dict(policy='step', step=[8, 11])": 'lr_config -> param_scheduler=[...]',
    "runner = dict(type='EpochBasedRunner', max_epochs=7)": 'runner.max_epochs -> train_cfg=dict(max_epochs=7)',
    'total_epochs = 9': 'total_epochs -> train_cfg=dict(max_epochs=9)',
    "evaluation = dict(interval=3, metric='bbox')": 'evaluation.interval -> train_cfg=dict(val_interval=3)',
    'checkpoint_config = dict(interval=5)': 'default_hooks=dict(checkpoint=dict(interval=5))',
    'log_config = dict(interval=50)': 'default_hooks=dict(logger=dict(interval=50))',
    'fp16 = dict(loss_scale=512.0)': "optim_wrapper=dict(type='FiniteAmpOptimWrapper', loss_scale=512.0)",
    "resume_from = 'gone.pth'": "resume_from -> resume=True, load_from='gone.pth'",
    'data = dict(samples_per_gpu=8)': 'data.samples_per_gpu -> train_dataloader=dict(batch_size=8)',
    "data = dict(train=dict(ann_file='a.json'))": 'data.train -> train_dataloader=dict(dataset=dict(...))',
    'img_norm_cfg = dict(mean=[0, 0, 0], std=[1, 1, 1])': 'model=dict(data_preprocessor=dict(mean=..., std=...))',
    'seed = 3': 'seed -> randomness=dict(seed=3)',
}


def child(folder: Path, text: str, base: Path | None = None) -> str:
    """A config of a user's own, by default over one that has just what is read before a model is built."""
    if base is None:
        base = folder / 'base.py'
        base.write_text(
            "default_scope = 'mmdet'\nmodel = dict(type='MaskRCNN')\ncount = 4\nsize = (224, 160)\n"
            'train_dataloader = dict(dataset=dict(indices=count, pipeline=[size]))\n'
            "optim_wrapper = dict(optimizer=dict(type='AdamW', lr=1e-4))\ntrain_cfg = dict(max_epochs=12)\n"
        )
    path = folder / 'mine.py'
    path.write_text(f'_base_ = {str(base)!r}\n{text}\n')
    return str(path)


@pytest.fixture
def log() -> Iterator[list[str]]:
    """Messages of the log, as they come."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


@pytest.mark.parametrize('text', OLD)
def test_an_old_setting_is_refused_with_the_new_one(text, tmp_path):
    with pytest.raises(UserError, match='has settings of mmdet 2.x or mmseg 0.x, which nothing reads') as refusal:
        load_config(child(tmp_path, text), {})
    assert OLD[text] in str(refusal.value)


def test_all_old_settings_are_listed_at_once_and_the_message_stays_short(tmp_path):
    with pytest.raises(UserError) as refusal:
        load_config(child(tmp_path, '\n'.join(OLD)), {})
    message = str(refusal.value).replace(str(tmp_path), '')
    assert 'optimizer ->' in message and 'runner.max_epochs ->' in message and message.endswith('and 8 more')
    assert len(message) < 700


def test_an_old_config_without_a_base_is_told_what_it_is(tmp_path):
    (tmp_path / 'old.py').write_text(
        "model = dict(type='MaskRCNN')\ndata = dict(samples_per_gpu=2)\ntotal_epochs = 12\n"
    )
    with pytest.raises(UserError, match='total_epochs -> train_cfg'):
        load_config(str(tmp_path / 'old.py'), {})


@pytest.mark.parametrize(
    'text',
    [
        "optimizer = dict(type='SGD', lr=0.5)\noptim_wrapper = dict(optimizer=dict(_delete_=True, **optimizer))",
        'data = dict(indices=4)\ntrain_dataloader = dict(dataset=data)',
        "data = dict(indices=4)\nworkflow_name = 'mine'",  # nothing reads it, but it has no key of 2.x
        'total_epochs = 2\ntrain_cfg = dict(max_epochs=total_epochs)',
    ],
)
def test_a_variable_with_the_name_of_an_old_setting_is_accepted(text, tmp_path):
    load_config(child(tmp_path, text), {})


@pytest.mark.parametrize('name', ['swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py'])
def test_a_whole_config_that_mmengine_wrote_is_accepted(name, tmp_path):
    cfg = Config.fromfile(RECIPES / name)
    assert cfg.optimizer.type == 'SGD' and cfg.optim_wrapper.optimizer.type == 'AdamW'  # of the base, and of the recipe
    cfg.dump(tmp_path / 'whole.py')
    load_config(str(tmp_path / 'whole.py'), {})
    load_config(str(RECIPES / name), {})


def test_an_old_setting_in_a_recipe_of_the_installed_mmseg_is_a_warning(tmp_path, log):
    name = 'mobilenet_v3/mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024.py'
    load_config(child(tmp_path, '', base=RECIPES / name), {})
    assert 'runner.max_iters -> train_cfg=dict(max_iters=320000)' in log[0]
    with pytest.raises(UserError, match='runner.max_iters'):
        load_config(child(tmp_path, 'runner = dict(max_iters=10)', base=RECIPES / name), {})


@pytest.mark.parametrize(
    ('option', 'new'),
    [
        ('runner.max_epochs', 'train_cfg=dict(max_epochs=...)'),
        ('data.samples_per_gpu', 'train_dataloader=dict(batch_size=...)'),
        ('optimizer.lr', 'optim_wrapper=dict(optimizer=...)'),
    ],
)
def test_an_old_option_is_answered_with_the_new_setting(option, new, tmp_path):
    with pytest.raises(UserError) as refusal:
        load_config(child(tmp_path, ''), {option: 1})
    assert f'--cfg-options {option} is a setting of mmdet 2.x' in str(refusal.value) and new in str(refusal.value)


def test_an_option_with_the_name_of_a_variable_of_the_config_is_accepted(tmp_path):
    path = child(tmp_path, 'data = dict(indices=4)\ntrain_dataloader = dict(dataset=data)')
    assert load_config(path, {'data.indices': 2}).data.indices == 2


def test_a_variable_of_a_base_that_a_config_sets_in_vain_is_named(tmp_path, log):
    load_config(child(tmp_path, 'size = (64, 64)\ncount = 2\nmine = 1'), {})
    assert len(log) == 1 and f'NOTHING READS size, count IN {tmp_path}/mine.py' in log[0]


@pytest.mark.parametrize('value', ['size[0]', '_base_.count', "'{{_base_.count}}'"])
def test_a_variable_that_is_read_is_not_named(value, tmp_path, log):
    load_config(
        child(tmp_path, f'size = (64, 64)\ntrain_dataloader = dict(dataset=dict(indices=size[0], x={value}))'), {}
    )
    assert log == []


def test_capital_keys_of_metainfo_are_read_in_both_tasks(tmp_path):
    metainfo = dict(CLASSES=('cat', 'dog'), PALETTE=[(1, 2, 3), (4, 5, 6)])
    for dataset in (
        CheckedCocoDataset(metainfo=metainfo, lazy_init=True, ann_file='a.json'),
        FolderDataset(metainfo=metainfo, lazy_init=True, data_prefix=dict(img_path='', seg_map_path='')),
    ):
        assert dataset.metainfo['classes'] == ('cat', 'dog')
        assert [tuple(colour) for colour in dataset.metainfo['palette']] == [(1, 2, 3), (4, 5, 6)]


@pytest.mark.parametrize('config', [DETECTION, SEGMENTATION])
def test_the_mini_recipes_give_no_warning(config, log):
    load_config(str(config), {})
    assert not any('NOTHING READS' in message for message in log)


def test_old_settings_in_a_checkout_of_upstream_give_a_warning(tmp_path, log):
    (tmp_path / 'mmdetection/mmdet').mkdir(parents=True)
    base = tmp_path / 'mmdetection/configs/ssd/ssd.py'
    base.parent.mkdir(parents=True)
    base.write_text("default_scope = 'mmdet'\nmodel = dict(type='MaskRCNN')\ncudnn_benchmark = True\n")
    load_config(child(tmp_path, 'epochs = 3', base), {})
    assert any('cudnn_benchmark' in line for line in log)
    mine = tmp_path / 'configs/ssd.py'  # not beside mmdet
    mine.parent.mkdir()
    mine.write_text(base.read_text())
    with pytest.raises(UserError, match='cudnn_benchmark'):
        load_config(child(tmp_path, 'epochs = 3', mine), {})
