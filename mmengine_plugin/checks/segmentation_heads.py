"""Settings of mmseg's heads that fail in the first iteration, or lower the scores without an error."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

from backbones.errors import UserError

from .run_part import RunPart


def check_single_channel(part: RunPart) -> None:
    """Check heads that predict two classes in one channel.

    mmseg's default threshold is 0.3, which favours the second class: a warning names the setting for 0.5.

    Raises:
        UserError: If the loss of such a head is a softmax over one channel.
    """
    for name, head in part.model.named_modules():
        if not hasattr(head, 'loss_decode') or getattr(head, 'out_channels', None) != 1:
            continue
        for loss_name, loss in _losses(name, head):
            if getattr(loss, 'use_sigmoid', True) is False and 'CrossEntropy' in type(loss).__name__:
                raise UserError(
                    f'model.{name}.out_channels is 1, and {loss_name} is a softmax, which needs a channel for each '
                    f'class: set {loss_name}.use_sigmoid=True, or leave out_channels out'
                )
        if name.startswith('decode_head') and _setting(part.cfg, f'model.{name}').get('threshold') is None:
            print_log(
                f'model.{name}.threshold is not set, and mmseg takes pixels of a probability above {head.threshold} '
                f'for class 1: for the more probable class, set model.{name}.threshold=0.5',
                'current',
                logging.WARNING,
            )


def check_class_weights(part: RunPart) -> None:
    """Check that a list of ``class_weight`` has a weight for each class.

    Raises:
        UserError: If it is longer or shorter, or if mmseg's loss would not weight classes by it.
    """
    for name, head in part.model.named_modules():
        classes = getattr(head, 'num_classes', None)
        if not hasattr(head, 'loss_decode') or not isinstance(classes, int):
            continue
        for key, loss in _losses(name, head):
            weights = getattr(loss, 'class_weight', None)
            if weights is None or not hasattr(weights, '__len__'):
                continue
            is_cross_entropy = type(loss).__name__ in ('CrossEntropyLoss', 'WeightedCrossEntropyLoss')
            if is_cross_entropy and loss.use_sigmoid and len(weights) > 1:
                raise UserError(
                    f'{key} has class_weight and use_sigmoid=True, and mmseg weights columns of pixels by it, not '
                    'classes: leave out one of the two'
                )
            if len(weights) != classes and not (is_cross_entropy and loss.use_sigmoid):
                raise UserError(
                    f'{key}.class_weight has {len(weights)} weights, and model.{name}.num_classes is {classes}: write '
                    'one weight for each class, in the order of metainfo.classes'
                )


def _losses(name: str, head: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The losses of a head, each with its key in the config."""
    if isinstance(head.loss_decode, nn.ModuleList):
        for i, loss in enumerate(head.loss_decode):
            yield f'model.{name}.loss_decode.{i}', loss
    else:
        yield f'model.{name}.loss_decode', head.loss_decode


def _setting(cfg: Config, key: str) -> dict:
    """The settings of a module in the config, by its key."""
    value = cfg
    for name in key.split('.'):
        value = value[int(name)] if name.isdigit() else value[name]
    return value
