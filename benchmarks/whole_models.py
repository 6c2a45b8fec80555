"""Mask R-CNN and UperNet: the whole training step and inference, with every backbone behind the same heads."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterator
from functools import partial

import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn

from backbones.mambaout import ARCHS
from mmengine_plugin import config
from mmengine_plugin.data.random_batch import random_batch

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
        batch = random_batch(task, images, height, width, CLASSES[task])
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
