"""Pipelines that spoil scores without an error are found in the config, and upstream's recipes are accepted."""

import copy
import functools
import re

import numpy as np
import pytest
from mmcv.transforms import Normalize, RandomFlip, Resize
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmengine_plugin.checks.pipelines import crop_above_size, padded_share, pipeline_problems
from mmengine_plugin.data.metainfo import metainfo_problems
from tests.conftest import DETECTION, ROOT, SEGMENTATION

NORMALIZE = dict(type='Normalize', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
FLIP = dict(type='RandomFlip', prob=0.5)
UPSTREAM = [
    'mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco.py',  # RandomCenterCropPad in tests, which its head undoes
    'mmdet::yolox/yolox_s_8xb8-300e_coco.py',
    'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py',
    'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py',
    'mmseg::san/san-vit-b16_voc12aug-640x640.py',  # a size_divisor
    'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py',
    'mmseg::knet/knet-s3_swin-l_upernet_8xb2-adamw-80k_ade20k-640x640.py',  # a crop that is smaller than the size
]


@functools.cache
def read(path: object) -> Config:
    """A config, read once."""
    return Config.fromfile(path)


def problems(cfg: Config) -> list[str]:
    """The problems of all pipelines of a config."""
    return [problem for split in ('train', 'val', 'test') for problem in pipeline_problems(cfg, split)]


def with_step(path: object, split: str, place: int, step: dict) -> Config:
    """A config with a step more in one of its pipelines."""
    cfg = copy.deepcopy(read(path))
    cfg[f'{split}_dataloader'].dataset.pipeline.insert(place, step)
    return cfg


@pytest.mark.parametrize('name', ['mask_rcnn_mambaout_tiny', 'upernet_mambaout_tiny', 'faster_rcnn_mambaout_tiny'])
def test_the_settings_of_our_recipes_are_accepted(name):
    cfg = read(ROOT / f'configs/{name}.py')
    assert problems(cfg) == [] and list(metainfo_problems(cfg)) == []


@pytest.mark.parametrize('base', UPSTREAM)
def test_the_pipelines_of_upstreams_recipes_are_accepted(base, tmp_path):
    (tmp_path / 'mine.py').write_text(f'_base_ = {base!r}')
    assert problems(Config.fromfile(tmp_path / 'mine.py')) == []


@pytest.mark.parametrize('path', [DETECTION, SEGMENTATION])
@pytest.mark.parametrize('split', ['train', 'val', 'test'])
def test_pixels_that_are_normalised_twice_are_refused(path, split):
    """mmdet's issue 11621."""
    cfg = with_step(path, split, 1, NORMALIZE)
    (message,) = problems(cfg)
    assert f'{split}_dataloader.dataset.pipeline has Normalize' in message and 'remove Normalize' in message
    cfg.model.data_preprocessor.update(mean=None, std=None)
    assert problems(cfg) == []
    cfg.model.data_preprocessor.update(mean=[0, 0, 0], std=[1, 1, 1])
    assert problems(cfg) == []


def test_a_second_normalisation_is_what_the_message_says():
    init_default_scope('mmdet')
    pixels = np.full((4, 4, 3), 200, np.uint8)
    once = MODELS.build(dict(type='DetDataPreprocessor', mean=NORMALIZE['mean'], std=NORMALIZE['std']))
    image = Normalize(**{key: NORMALIZE[key] for key in ('mean', 'std')})(dict(img=pixels.astype(np.float32)))['img']
    expected = (200 - np.array(NORMALIZE['mean'])) / NORMALIZE['std']
    assert image[0, 0] == pytest.approx(expected, abs=1e-3)
    mean = once.mean.flatten().numpy()
    assert abs((expected - mean) / NORMALIZE['std'] - expected).min() > 1  # what a model would be given


@pytest.mark.parametrize('split', ['val', 'test'])
@pytest.mark.parametrize(
    'step',
    [
        FLIP,
        dict(type='RandomCrop', crop_size=(64, 64)),
        dict(type='mmdet.RandomAffine'),
        dict(type='RandomApply', transforms=[FLIP], prob=0.5),
        dict(type='RandomChoice', transforms=[[FLIP], [dict(type='Resize', scale=(64, 64))]]),
    ],
    ids=str,
)
def test_moving_pixels_in_a_validation_or_a_test_is_refused(split, step):
    """point2rbox-v2's issue 8."""
    (message,) = problems(with_step(DETECTION, split, -1, step))
    assert message.startswith(f'{split}_dataloader.dataset.pipeline has Random') and 'remove Random' in message


def test_a_flip_moves_the_pixels_and_resizing_keeps_their_places():
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 6)
    flipped = RandomFlip(prob=1.0)(dict(img=pixels))['img']
    assert flipped[0].tolist() == [5, 4, 3, 2, 1, 0]
    small = Resize(scale=(3, 1), interpolation='nearest')(dict(img=pixels))['img']
    assert small[0].tolist() == sorted(small[0])


@pytest.mark.parametrize(
    'step',
    [
        dict(type='RandomFlip', prob=0.0),
        dict(type='Pad', size_divisor=32),
        dict(type='RandomCenterCropPad', ratios=None, border=None, test_mode=True, test_pad_mode=['logical_or', 31]),
        dict(type='TestTimeAug', transforms=[[dict(type='RandomFlip', prob=1.0)], [dict(type='PackDetInputs')]]),
        dict(type='PhotoMetricDistortion'),
    ],
    ids=str,
)
def test_steps_that_keep_pixels_in_place_or_are_undone_are_accepted(step):
    assert problems(with_step(DETECTION, 'val', -1, step)) == []


def test_a_segmentor_turns_a_flip_back_only_if_its_labels_are_not_flipped():
    assert problems(with_step(SEGMENTATION, 'val', 1, FLIP)) == []  # before LoadAnnotations
    (message,) = problems(with_step(SEGMENTATION, 'val', -1, FLIP))
    assert 'val_dataloader.dataset.pipeline has RandomFlip' in message


@pytest.mark.parametrize(
    ('size', 'crop', 'message'),
    [
        ((128, 128), (128, 128), None),
        ((512, 512), (128, 128), r'is \(512, 512\), and the training crop is \(128, 128\): 94% of each batch'),
        (None, (64, 96), r'size is not set: .* model\.data_preprocessor\.size=\(64, 96\)'),
        ((160, 160), 128, None),  # a warning says it
    ],
)
def test_the_size_of_batches_must_suit_the_training_crop(size, crop, message):
    """mmseg's issues 3727, 3313 and 3425."""
    cfg = copy.deepcopy(read(SEGMENTATION))
    cfg.model.data_preprocessor.size = size
    for step in cfg.train_dataloader.dataset.pipeline:
        if step.type == 'RandomCrop':
            step.crop_size = crop
    found = problems(cfg)
    if message is None:
        assert found == []
        share = 1 - np.prod(np.atleast_1d(crop) * np.ones(2)) / np.prod(size)
        assert padded_share(cfg) == (f'model.data_preprocessor.size={tuple(np.broadcast_to(crop, 2).tolist())}', share)
    else:
        assert len(found) == 1 and re.search(message, found[0]), found


def test_the_last_step_that_gives_a_fixed_size_counts():
    cfg = copy.deepcopy(read(SEGMENTATION))
    cfg.model.data_preprocessor.size = (48, 64)
    last = cfg.train_dataloader.dataset.pipeline
    last.insert(-1, dict(type='Resize', scale=(64, 48), keep_ratio=False))  # width and height
    assert problems(cfg) == [] and padded_share(cfg)[1] == 0
    last.insert(-1, dict(type='RandomResize', scale=(64, 48), ratio_range=(0.5, 2.0)))
    assert padded_share(cfg) is None
    last.insert(-1, dict(type='Pad', size=(640, 480)))
    assert problems(cfg) == []
    assert 'is (48, 64), which is smaller than the training crop (480, 640)' in crop_above_size(cfg)
    cfg.model.data_preprocessor.size = (480, 640)
    assert crop_above_size(cfg) is None
