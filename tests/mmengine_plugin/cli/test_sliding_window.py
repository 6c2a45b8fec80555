"""The sliding window of segmentors: what is missing is completed, what is wrong is refused, and what comes out."""

import copy
import logging
from collections.abc import Iterator

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope

from backbones import UserError
from mmengine_plugin.cli.configs import load_config
from mmengine_plugin.cli.sliding_window import complete_sliding_window
from tests.conftest import SEGMENTATION
from tests.mmengine_plugin.engine.small_recipes import recipe


def completed(**test_cfg) -> dict:
    """The ``test_cfg`` of a segmentor with a training crop of 512x640 pixels, after completion."""
    model = dict(decode_head=dict(), data_preprocessor=dict(size=(512, 640)), test_cfg=test_cfg)
    cfg = Config(dict(default_scope='mmseg', model=model))
    complete_sliding_window(cfg)
    return cfg.model.test_cfg


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """The lines that are logged during a test."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


def test_the_crop_of_the_training_and_two_thirds_of_it_are_the_defaults(logged):
    assert completed(mode='slide') == dict(mode='slide', crop_size=(512, 640), stride=(341, 426))
    (line,) = logged
    assert 'without crop_size and stride: the window is 512x640 pixels, and its stride 341x426' in line


def test_one_number_stands_for_both_directions(logged):
    expected = dict(mode='slide', crop_size=(256, 256), stride=(170, 170))
    assert completed(mode='slide', crop_size=256, stride=170) == expected
    assert logged == []


def test_settings_that_are_complete_remain():
    expected = dict(mode='slide', crop_size=(100, 200), stride=(50, 200))
    assert completed(**expected) == expected


def test_without_a_mode_the_whole_image_is_used():
    assert completed() == dict(mode='whole') == completed(mode='whole')


@pytest.mark.parametrize(
    ('test_cfg', 'message'),
    [
        (dict(mode='slid'), r"mode is 'slid' \(did you mean 'slide'\?\)"),
        (dict(mode='slide', crop_size='512'), "crop_size is '512': set it to height and width"),
        (dict(mode='slide', crop_size=(512, 512, 3)), r'crop_size is [\[(]512, 512, 3'),
        (dict(mode='slide', stride=0), 'stride is 0: set it to height and width'),
        (
            dict(mode='slide', crop_size=256, stride=300),
            r'stride is \(300, 300\) .* would leave out pixels .*\(170,170\)',
        ),
    ],
)
def test_wrong_settings_are_refused(test_cfg, message):
    with pytest.raises(UserError, match=message):
        completed(**test_cfg)


def test_a_window_without_any_size_is_refused():
    cfg = Config(dict(default_scope='mmseg', model=dict(decode_head=dict(), test_cfg=dict(mode='slide'))))
    with pytest.raises(UserError, match='set model.test_cfg.crop_size'):
        complete_sliding_window(cfg)


def test_every_program_gets_the_completed_window():
    assert load_config(str(SEGMENTATION), {'model.test_cfg.mode': 'slide'}).model.test_cfg.stride == (85, 85)
    assert 'stride' not in load_config(str(SEGMENTATION), {}).model.test_cfg


@pytest.mark.parametrize(('size', 'equal'), [((40, 50), True), ((100, 120), False)])
def test_an_image_within_one_window_gives_the_map_of_the_whole_image(size, equal):
    cfg = copy.deepcopy(recipe('segmentation'))
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    cfg.model.test_cfg = dict(mode='slide')
    complete_sliding_window(cfg)
    image = torch.randn(1, 3, *size)
    metas = [dict(ori_shape=size, img_shape=size, pad_shape=size)]
    with torch.no_grad():
        whole = model.inference(image, copy.deepcopy(metas))
        model.test_cfg = cfg.model.test_cfg
        slid = model.inference(image, copy.deepcopy(metas))
    assert slid.shape == whole.shape == (1, 150, *size)
    assert torch.equal(slid, whole) == equal
