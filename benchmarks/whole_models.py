"""Mask R-CNN and UperNet: the whole training step and inference, with every backbone behind the same heads."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from torch import nn

from backbones.mambaout import ARCHS
from mmengine_plugin import config

from .candidates import COMPILED, FASTEST, build, mambaout_candidates, other_candidates
from .host_times import functions_of_step, host_times
from .measuring import CUDA, DEVICE, DTYPE, measure, profile

SHAPES = dict(  # images x height x width; on a CPU, one step of UperNet with 2x512x512 takes 15 seconds or more
    detection=['2x800x1280'] if CUDA else ['1x512x800'],
    segmentation=['16x512x512'] if CUDA else ['2x256x256'],
)
# The suite `backbone` has these candidates; they are not the fastest in a whole model
LEFT_OUT = {'ours, fused', 'ours, triton, unaligned'} if CUDA else {'ours, eager'}
CLASSES = dict(detection=80, segmentation=150)  # of the recipes' data sets
HOST_STEPS = 3  # of which the host's times are taken


def measure_whole_models(task: str, arch: str, shapes: list[str], rounds: int) -> Iterator[dict]:
    """Measure a detector or a segmentor on each backbone.

    Args:
        task: ``'detection'`` for Mask R-CNN or ``'segmentation'`` for UperNet.
        arch: A size of MambaOut, for example ``'tiny'``.
        shapes: Batches, as ``'<images>x<height>x<width>'``.
        rounds: How often each candidate runs.

    Yields:
        A row of the report for each shape, pass and candidate.
    """
    models = build_models(task, arch)
    for shape in shapes:
        images, height, width = map(int, shape.split('x'))
        batch = random_batch(task, images, height, width)
        if task == 'segmentation':
            for model, _ in models.values():
                model.data_preprocessor.size = height, width  # otherwise it pads the images to the recipe's 512x512
        for what, function in dict(step=train_step, inference=infer).items():
            runs = {
                name: partial(function, *built, batch)
                for name, built in models.items()
                if what == 'step' or not name.endswith(COMPILED)  # compiling once more takes most of a minute
            }
            for name, result in measure(runs, rounds, f'{task} {what} {shape}').items():
                if what == 'step':
                    result |= profile(runs[name], result['seconds'])
                if what == 'step' and name in ('timm', FASTEST):
                    result['host'] = host_times(runs[name], functions_of_step(*models[name]), HOST_STEPS)
                result['images_per_second'] = images / statistics.median(result['seconds'])
                yield dict(suite=f'{task} {arch}', what=what, shape=shape, candidate=name, **result)


def build_models(task: str, arch: str) -> dict[str, tuple[nn.Module, OptimWrapper]]:
    """Build the model of the task, and its optimizer, with each candidate as its backbone."""
    cfg = Config.fromfile(config(f'{"mask_rcnn" if task == "detection" else "upernet"}_mambaout_{arch}'))
    init_default_scope(cfg.default_scope)
    cfg.optim_wrapper.pop('paramwise_cfg')  # it logs a line for each parameter, and does not change the time
    cfg.optim_wrapper.dtype = 'bfloat16'  # on CUDA
    keep_all_boxes(cfg.model)
    backbones = {}
    for name, backbone in mambaout_candidates(arch).items():
        if name in LEFT_OUT or (task == 'segmentation' and name.endswith(COMPILED)):
            continue
        if 'out_norm' in backbone:
            backbone['out_norm'] = True
        backbones[name] = backbone, list(ARCHS[arch].dims)
    models = {}
    for name, (backbone, channels) in (backbones | other_candidates()).items():
        model_cfg = copy.deepcopy(cfg.model)
        model_cfg.backbone = backbone
        if task == 'detection':
            model_cfg.neck.in_channels = channels
        else:
            model_cfg.decode_head.in_channels = channels
            model_cfg.auxiliary_head.in_channels = channels[2]
        model = build(name, model_cfg)
        models[name] = model, build_optim_wrapper(model, cfg.optim_wrapper)
    return models


def train_step(model: nn.Module, optimizer: OptimWrapper, batch: dict) -> None:
    """Run a whole training step, the optimizer's included."""
    model.train().train_step(copy.deepcopy(batch), optimizer)


def infer(model: nn.Module, optimizer: OptimWrapper, batch: dict) -> None:
    """Run inference, from images to results; the optimizer is not used."""
    with torch.no_grad(), torch.autocast(DEVICE, DTYPE, enabled=CUDA):
        model.eval().test_step(copy.deepcopy(batch))


def keep_all_boxes(model_cfg: ConfigDict) -> None:
    """Remove the threshold of the scores from a detector's config, in place.

    Random weights score differently with each backbone. Without a threshold, all detectors have the same number of
    boxes. The config of a segmentor has no such threshold.
    """
    test_cfg = model_cfg.get('test_cfg') or {}
    for part in (test_cfg, test_cfg.get('rcnn') or {}):
        if 'score_thr' in part:
            part['score_thr'] = 0.0


def random_batch(task: str, images: int, height: int, width: int, classes: int | None = None) -> dict:
    """A batch of noise, with random objects or labels of ``classes`` classes; the default is the recipe's number."""
    random = np.random.default_rng(0)
    inputs = [torch.from_numpy(random.integers(0, 256, (3, height, width), dtype=np.uint8)) for _ in range(images)]
    make_sample = detection_sample if task == 'detection' else segmentation_sample
    samples = []
    for number in range(images):
        sample = make_sample(random, height, width, classes or CLASSES[task])
        shapes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), (height, width))
        sample.set_metainfo(dict(shapes, scale_factor=(1.0, 1.0), img_id=number))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def detection_sample(random: np.random.Generator, height: int, width: int, classes: int) -> BaseDataElement:
    """The ground truth of an image: 10 random boxes, filled as masks, with random labels."""
    from mmdet.structures import DetDataSample  # after mmengine_plugin, which provides mmcv's compiled operators
    from mmdet.structures.mask import BitmapMasks

    corners = random.uniform(0, 0.7, (10, 2)) * (width, height)
    boxes = np.concatenate((corners, corners + random.uniform(0.05, 0.3, (10, 2)) * (width, height)), axis=1)
    masks = np.zeros((10, height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1 : y2 + 1, x1 : x2 + 1] = 1
    truth = InstanceData(
        bboxes=torch.tensor(boxes).float(),
        labels=torch.from_numpy(random.integers(0, classes, 10)),
        masks=BitmapMasks(masks, height, width),
    )
    return DetDataSample(gt_instances=truth, ignored_instances=InstanceData(bboxes=torch.zeros(0, 4)))


def segmentation_sample(random: np.random.Generator, height: int, width: int, classes: int) -> BaseDataElement:
    """The ground truth of an image: squares of 32 x 32 pixels, each with a random label."""
    from mmseg.structures import SegDataSample  # after mmengine_plugin, which provides mmcv's compiled operators

    squares = random.integers(0, classes, (1, -(-height // 32), -(-width // 32))).repeat(32, 1).repeat(32, 2)
    return SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(squares[:, :height, :width])))
