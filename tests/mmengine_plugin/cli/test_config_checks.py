"""Settings that would end in a traceback before or during the first step are refused in one line, or just work."""

import pytest
from mmengine.config import Config

from backbones import UserError
from backbones.mambaout import MambaOut
from mmengine_plugin.cli.config_checks import check_constructor, check_functions, check_loaders, check_loop
from tests.conftest import DETECTION, SEGMENTATION


@pytest.mark.parametrize(
    ('loader', 'message'),
    [
        (dict(batch_size='2'), "train_dataloader.batch_size is '2': set an integer from 1"),
        (dict(batch_size=2.0), 'train_dataloader.batch_size is 2.0'),
        (dict(batch_size=0), 'train_dataloader.batch_size is 0'),
        (dict(num_workers=-1), 'train_dataloader.num_workers is -1: set an integer from 0'),
    ],
)
def test_numbers_of_a_data_loader_that_are_none_are_refused(loader, message):
    cfg = Config.fromfile(DETECTION)
    check_loaders(cfg)
    cfg.train_dataloader.update(loader)
    with pytest.raises(UserError, match=message):
        check_loaders(cfg)


@pytest.mark.parametrize(('workers', 'kept'), [(0, False), (2, True)])
def test_without_workers_their_settings_are_switched_off(workers, kept):
    cfg = Config.fromfile(DETECTION)
    cfg.train_dataloader.update(num_workers=workers, persistent_workers=True, prefetch_factor=2)
    check_loaders(cfg)
    assert ('persistent_workers' in cfg.train_dataloader) == ('prefetch_factor' in cfg.train_dataloader) == kept


@pytest.mark.parametrize(
    ('config', 'key', 'loop'),
    [(SEGMENTATION, 'max_epochs', 'ResumableEpochLoop'), (DETECTION, 'max_iters', 'ResumableIterLoop')],
)
def test_a_length_in_the_unit_of_the_other_loop_is_refused(config, key, loop):
    cfg = Config.fromfile(config)
    check_loop(cfg)
    cfg.train_cfg[key] = 50
    with pytest.raises(UserError, match=rf"train_cfg\.{key} is set, but .*type='{loop}', {key}=50"):
        check_loop(cfg)
    cfg.train_cfg = dict(type=loop, **{key: 50})
    check_loop(cfg)


def test_the_message_about_epochs_names_the_loop():
    cfg = Config.fromfile(SEGMENTATION)
    cfg.train_cfg.max_epochs = 50
    with pytest.raises(UserError) as refusal:
        check_loop(cfg)
    assert 'train_cfg.max_epochs is set, but ResumableIterLoop counts iterations' in str(refusal.value)


@pytest.mark.parametrize('value', [0, 1.5, '12', None])
def test_a_length_that_is_no_positive_integer_is_refused(value):
    cfg = Config.fromfile(DETECTION)
    cfg.train_cfg.max_epochs = value
    with pytest.raises(UserError, match='train_cfg.max_epochs is .*set a positive integer'):
        check_loop(cfg)


def test_configs_with_classes_functions_and_none_are_read():
    loader = dict(batch_size=[8, 32], num_workers=0, collate_fn=len)  # a batch size for each data set
    cfg = Config(dict(model=dict(backbone=dict(type=MambaOut)), optim_wrapper=None, train_dataloader=loader))
    for check in (check_constructor, check_functions, check_loaders):
        check(cfg)
    cfg.model.backbone = None
    check_constructor(cfg)
    cfg.model.backbone = dict(type=MambaOut)
    cfg.optim_wrapper = dict(constructor='LearningRateDecayOptimizerConstructor')
    with pytest.raises(UserError, match='LayerDecayOptimWrapperConstructor'):
        check_constructor(cfg)
