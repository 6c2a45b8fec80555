"""The recipes of ``configs/mini`` with models of a few thousand parameters and six steps, and variations of them."""

import copy
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS
from mmengine.runner import Runner
from torch import nn

from mmseg_plugin.data.datasets import CheckedADE20KDataset
from tests.conftest import DETECTION, SEGMENTATION

CROP = (56, 56)
BACKBONE = {
    'model.backbone.arch': dict(_delete_=True, depths=(1, 1, 1, 1), dims=(4, 8, 8, 8)),
    'model.backbone.drop_path_rate': 0.2,
}
MASK_RCNN = {
    'model.neck': dict(in_channels=[4, 8, 8, 8], out_channels=8),
    'model.rpn_head': dict(in_channels=8, feat_channels=8, anchor_generator=dict(scales=[2])),
    'model.roi_head.bbox_roi_extractor.out_channels': 8,
    'model.roi_head.mask_roi_extractor.out_channels': 8,
    'model.roi_head.bbox_head': dict(in_channels=8, fc_out_channels=16),
    'model.roi_head.mask_head': dict(in_channels=8, conv_out_channels=8),
    'model.train_cfg.rpn_proposal': dict(nms_pre=100, max_per_img=50),
    'model.train_cfg.rcnn.sampler.num': 16,
    'model.test_cfg.rpn': dict(nms_pre=50, max_per_img=20),
    'model.test_cfg.rcnn': dict(score_thr=0.0, max_per_img=10),
}
UPERNET = {
    'model.data_preprocessor.size': CROP,
    'model.decode_head': dict(in_channels=[4, 8, 8, 8], channels=8),
    'model.auxiliary_head': dict(in_channels=8, channels=8),
}
MASK_RCNN_PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(112, 80), keep_ratio=True),
    dict(type='RandomCrop', crop_size=CROP),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
UPERNET_PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(112, 80), ratio_range=(0.8, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=CROP, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
WARM_UP = dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=3)
LOOPS = {
    'epochs': {  # three iterations each
        'train_cfg': dict(_delete_=True, type='ResumableEpochLoop', max_epochs=2, val_interval=2),
        'train_dataloader.sampler': dict(_delete_=True, type='DefaultSampler', shuffle=True),
        'param_scheduler': [
            WARM_UP,
            dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=2, T_max=2, convert_to_iter_based=True),
        ],
        'log_processor.by_epoch': True,
    },
    'iterations': {
        'train_cfg': dict(_delete_=True, type='ResumableIterLoop', max_iters=6, val_interval=6),
        'train_dataloader.sampler': dict(_delete_=True, type='InfiniteSampler', shuffle=True),
        'param_scheduler': [WARM_UP, dict(type='PolyLR', by_epoch=False, begin=3, end=6)],
        'log_processor.by_epoch': False,
    },
}
PRECISIONS = {
    'fp32': dict(type='FiniteOptimWrapper'),
    'bf16': dict(type='FiniteAmpOptimWrapper', dtype='bfloat16'),
    # the first scale makes all gradients infinite, the second one makes none; it grows after two more steps
    'fp16': dict(
        type='FiniteAmpOptimWrapper',
        dtype='float16',
        loss_scale=dict(init_scale=2.0**40, backoff_factor=2.0**-36, growth_interval=2),
    ),
}
TASKS = ('detection', 'segmentation')


@DATASETS.register_module()
class ADE20KWithCategories(CheckedADE20KDataset):
    """ADE20K's data set for mmengine's ClassBalancedDataset, which asks for the classes in an image."""

    def get_cat_ids(self, idx: int) -> list[int]:
        """The labels in an image."""
        return np.unique(cv2.imread(self.get_data_info(idx)['seg_map_path'], cv2.IMREAD_UNCHANGED)).tolist()


@HOOKS.register_module()
class LogPrecision(Hook):
    """Logs the type of the numbers that the first convolution of the backbone computes."""

    def before_train(self, runner: Runner) -> None:
        """Make the first convolution log."""
        first = next(module for module in runner.model.backbone.modules() if isinstance(module, nn.Conv2d))
        first.register_forward_hook(lambda module, inputs, out: runner.logger.info(f'computing in {out.dtype}'))


def ema(cfg: Config) -> None:
    """Average the weights."""
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.3))


def accumulation(cfg: Config) -> None:
    """Take a step every three iterations; the checkpoint after four holds the gradients of a third of a step."""
    cfg.optim_wrapper.accumulative_counts = 3


def concatenated(cfg: Config) -> None:
    """Join two data sets."""
    parts = [part_of(cfg.train_dataloader.dataset, range(3)), part_of(cfg.train_dataloader.dataset, range(3, 6))]
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=parts)


def repeated(cfg: Config) -> None:
    """Repeat two images; one of them counts twice because it has a class that the other one lacks."""
    images = (0, 2) if cfg.default_scope == 'mmdet' else (2, 3)
    part = part_of(cfg.train_dataloader.dataset, images)
    if cfg.default_scope == 'mmseg':
        part['type'] = 'ADE20KWithCategories'
    balanced = dict(type='ClassBalancedDataset', oversample_thr=0.7, dataset=part)
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=balanced)


def mixed(cfg: Config) -> None:
    """Make a sample of several images: paste objects of one into another, or lay out a mosaic of four."""
    pipeline = cfg.train_dataloader.dataset.pipeline
    mix = dict(type='CopyPaste', mask_occluded_thr=20)
    if cfg.default_scope == 'mmseg':
        mix = dict(type='RandomMosaic', prob=0.8, img_scale=(28, 28))
    part = cfg.train_dataloader.dataset | dict(pipeline=pipeline[:-2])
    cfg.train_dataloader.dataset = dict(type='MultiImageMixDataset', dataset=part, pipeline=[mix, *pipeline[-2:]])


VARIATIONS: dict[str, Callable[[Config], None]] = {
    'plain': lambda cfg: None,
    'ema': ema,
    'accumulation': accumulation,
    'concatenated': concatenated,
    'repeated': repeated,
    'mixed': mixed,
}


def part_of(dataset: ConfigDict, images: range | tuple[int, ...]) -> ConfigDict:
    """The config of a data set with some images of another one."""
    return copy.deepcopy(dataset) | dict(indices=list(images))


def merge(cfg: Config, options: dict) -> None:
    """Merge options into a config; mmengine takes ``_delete_`` out of those that it is given."""
    cfg.merge_from_dict(copy.deepcopy(options))


@cache
def recipe(task: str) -> Config:
    """The recipe of ``configs/mini`` for a task, with a small model, small images and a short training."""
    cfg = Config.fromfile(DETECTION if task == 'detection' else SEGMENTATION)
    cfg = Config(cfg.to_dict(), format_python_code=False)  # formatting it for each log takes longer than the training
    # imports all modules, here and not in each process
    import_module(f'{cfg.default_scope}.utils').register_all_modules(init_default_scope=False)
    merge(cfg, BACKBONE | (MASK_RCNN if task == 'detection' else UPERNET))
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.batch_size = 2
    cfg.train_dataloader.dataset.pipeline = MASK_RCNN_PIPELINE if task == 'detection' else UPERNET_PIPELINE
    cfg.train_dataloader.dataset.indices = list(range(6))
    for transform in cfg.val_dataloader.dataset.pipeline:
        if transform['type'] == 'Resize':
            transform['scale'] = (112, 80)
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=2)
    return cfg


def settings(work_dir: Path, task: str, loop: str, precision: str, variation: str) -> Config:
    """The config of a training of six iterations with a checkpoint every two iterations."""
    cfg = copy.deepcopy(recipe(task))
    merge(cfg, LOOPS[loop])
    cfg.optim_wrapper.update(PRECISIONS[precision])
    VARIATIONS[variation](cfg)
    cfg.work_dir = str(work_dir)
    return cfg
