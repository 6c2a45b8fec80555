"""Losses of mmseg 1.2 that fail, or count pixels that are to be ignored."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

from mmengine.config import Config
from mmengine.logging import print_log


def mend_losses(cfg: Config) -> None:
    """Replace the losses of a segmentor that would fail, and warn of one that counts ignored pixels.

    CrossEntropyLoss with ``class_weight`` fails at the first ignored pixel, and FocalLoss on a CPU. The losses of
    :mod:`mmseg_plugin.losses` that replace them have the same values elsewhere. DiceLoss is not replaced, because its
    values would change.

    Args:
        cfg: Config of a run; it is changed in place.
    """
    if cfg.get('default_scope') != 'mmseg' or 'mmseg_plugin' not in sys.modules:
        return
    for key, loss in _dicts('model', cfg.model):
        name = loss.get('type')
        if name == 'DiceLoss' and loss.get('ignore_index', 255) is not None:  # None: of masks, not of labels
            print_log(
                f'{key}: DiceLoss of mmseg counts ignored pixels (label 255, also the padding of small images) as '
                f"wrong, whatever is predicted there: set {key}.type='MaskedDiceLoss' to leave them out",
                'current',
                logging.WARNING,
            )
        new = None
        if name == 'CrossEntropyLoss' and loss.get('class_weight') is not None and not loss.get('use_sigmoid'):
            new = 'WeightedCrossEntropyLoss'
        elif name == 'FocalLoss':
            new = 'PortableFocalLoss'
        if new:
            loss['type'] = new
            print_log(f'{key}: {name} of mmseg is replaced by {new}, which is the same and does not fail', 'current')


def _dicts(key: str, value: object) -> Iterator[tuple[str, dict]]:
    """The dicts inside a part of a config, each with its key."""
    if isinstance(value, dict):
        yield key, value
        for name, part in value.items():
            yield from _dicts(f'{key}.{name}', part)
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from _dicts(f'{key}.{number}', part)
