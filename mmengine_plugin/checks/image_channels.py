"""The number of channels of images: in the files, in the normalisation, and in the backbone."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import MODELS, TRANSFORMS
from torch import nn

from backbones.errors import UserError

from .trial_run import feature_maps

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet's R, G and B, from 0 to 255
KNOWN_PREPROCESSORS = ('mmdet', 'mmseg', 'mmdet_plugin')  # their packages; another one may add channels
RGB_ONLY = ('PhotoMetricDistortion', 'YOLOXHSVRandomAug')  # transforms that change hues


def check_channels(cfg: Config) -> None:
    """Compare the settings of a config that depend on the number of channels of the images.

    These are ``model.backbone.in_channels``, ``mean``, ``std`` and ``bgr_to_rgb`` of ``model.data_preprocessor``, and
    ``color_type`` of every LoadImageFromFile.

    Args:
        cfg: A config of mmdet or mmseg.

    Raises:
        UserError: If they disagree. The message has settings that agree, which are ready to paste.
    """
    is_detector = cfg.default_scope == 'mmdet'
    preprocessor = cfg.model.get('data_preprocessor') or {}
    found = _channels_of_model(cfg) | _channels_of_loaders(cfg)
    channels = next((count for count in found.values() if count != 3), 3)
    wrong = [f'{key} is for {count}' for key, count in found.items() if count != channels]
    if channels != 3:
        if is_detector and preprocessor.get('bgr_to_rgb'):
            wrong.append('model.data_preprocessor.bgr_to_rgb=True is for 3')
        if preprocessor.get('type') == 'DetDataPreprocessor' and len(preprocessor.get('mean') or ()) > 1:
            wrong.append('DetDataPreprocessor takes 1 or 3 values of mean')
        wrong += [f'{step["type"]} in {place} is for 3' for place, step in _steps(cfg) if step['type'] in RGB_ONLY]
    if wrong:
        first = next((key for key, count in found.items() if count == channels), 'the model')
        raise UserError(
            f'{first} is for images of {_counted(channels)}, but {"; ".join(wrong[:4])}. '
            f'{_advice(channels, is_detector)}'
        )


def check_image_channels(model: nn.Module, pixels: np.ndarray) -> None:
    """Check that a model takes as many channels as an image has.

    Args:
        model: Detector or segmentor. Nothing is checked without a convolution in its backbone, or if its data
            preprocessor is another one than those of mmdet, mmseg and this package.
        pixels: The image ``(H, W)`` or ``(H, W, C)``.

    Raises:
        UserError: If it does not. The message has the settings for this number of channels.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    backbone = getattr(model, 'backbone', None)
    convolution = next((m for m in backbone.modules() if isinstance(m, nn.Conv2d)), None) if backbone else None
    package = type(model.data_preprocessor).__module__.split('.')[0]
    if convolution is None or package not in KNOWN_PREPROCESSORS:
        return
    channels, expected = pixels.shape[2] if pixels.ndim == 3 else 1, convolution.in_channels
    is_detector = 'Det' in type(model.data_preprocessor).__name__
    mean = getattr(model.data_preprocessor, 'mean', None)
    is_repeated = channels == 1 and not is_detector and mean is not None and len(mean) == expected
    if channels == expected or is_repeated:  # mmseg repeats one channel when it subtracts several means
        return
    # the first convolution of a backbone may be that of one of several parts of the image, such as RGB and depth
    if not feature_maps(backbone, convolution.weight.new_zeros(1, channels, 64, 64)):
        raise UserError(
            f'it has {_counted(channels)} as LoadImageFromFile loads it, but '
            f'model.backbone.in_channels is {expected}. {_advice(channels, is_detector)}; convert this image otherwise'
        )


def _advice(channels: int, is_detector: bool) -> str:
    """The settings for a number of channels, ready to paste; mean and std are those of the pretraining, repeated."""
    mean, std = ([values[i % 3] for i in range(channels)] for values in (MEAN, STD))
    if channels == 1:
        mean, std = [114.495], [57.63]  # averages of the three
    kind = "type='MultiChannelDetDataPreprocessor', " if is_detector and channels not in (1, 3) else ''
    color_type = {1: 'grayscale', 3: 'color'}.get(channels, 'unchanged')
    advice = (
        f'For images of {_counted(channels)}, set '
        f'model = dict(backbone=dict(in_channels={channels}), data_preprocessor=dict({kind}mean={mean}, std={std}, '
        f"bgr_to_rgb={channels == 3})) and color_type='{color_type}' in every LoadImageFromFile"
    )
    return advice if channels == 3 else f'{advice}, and remove PhotoMetricDistortion'


def _counted(channels: int) -> str:
    return '1 channel' if channels == 1 else f'{channels} channels'


def _channels_of_model(cfg: Config) -> dict[str, int]:
    """The channels that the backbone and the normalisation are for, by their keys in the config."""
    found = {}
    backbone, preprocessor = cfg.model.get('backbone'), cfg.model.get('data_preprocessor') or {}
    if isinstance(backbone, Mapping):
        in_channels = backbone.get('in_channels')
        built = backbone.get('type')  # a class or its registered name
        if isinstance(built, str):
            built = MODELS.get(f'{cfg.default_scope}.{built}') or MODELS.get(built)
        if in_channels is None and callable(built) and 'in_channels' in inspect.signature(built).parameters:
            in_channels = inspect.signature(built).parameters['in_channels'].default
        if isinstance(in_channels, int):
            found['model.backbone.in_channels'] = in_channels
    for key in ('mean', 'std'):
        values = preprocessor.get(key)
        if isinstance(values, list | tuple) and len(values) != 1:  # a single value is for all channels
            found[f'model.data_preprocessor.{key}'] = len(values)
    return found


def _channels_of_loaders(cfg: Config) -> dict[str, int]:
    """The channels that LoadImageFromFile loads, by a description of the setting. ``'unchanged'`` leaves them open."""
    found = {}
    repeats = cfg.default_scope == 'mmseg' and set(_channels_of_model(cfg).values()) == {3}
    foreign = {place for place, step in _steps(cfg) if _is_foreign(step, cfg.default_scope)}  # it may add channels
    for place, step in _steps(cfg):
        color_type = step.get('color_type', 'color')
        is_grey = color_type.startswith('grayscale')
        known = color_type != 'unchanged' and step.get('imdecode_backend') != 'tifffile' and not (is_grey and repeats)
        if step['type'] == 'LoadImageFromFile' and known and place not in foreign:
            found[f'color_type={color_type!r} in {place}'] = 1 if is_grey else 3
    return found


def _is_foreign(step: Mapping, scope: str) -> bool:
    """Whether a transform is neither OpenMMLab's nor ours."""
    built = TRANSFORMS.get(f'{scope}.{step["type"]}') or TRANSFORMS.get(step['type'])
    return built is None or not built.__module__.startswith(('mmcv.', 'mmdet', 'mmengine', 'mmseg'))


def _steps(cfg: Config) -> Iterator[tuple[str, Mapping]]:
    """The steps of all pipelines, each with the key of its data loader."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for step in _steps_in(cfg.get(name) or {}):
            yield name, step


def _steps_in(value: Any) -> Iterator[Mapping]:
    """The steps of all pipelines in a part of a config."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if key == 'pipeline' and isinstance(entry, list):
                yield from (step for step in entry if isinstance(step, Mapping) and isinstance(step.get('type'), str))
            yield from _steps_in(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _steps_in(entry)
