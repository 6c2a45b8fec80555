"""The check of test-time augmentation, in which mmdet merges boxes alone."""

from __future__ import annotations

from mmengine.model import is_model_wrapper
from torch import nn

from backbones.errors import UserError


def check_test_time_augmentation(model: nn.Module) -> None:
    """Refuse the test-time augmentation of a detector with masks, which mmdet cannot merge.

    Raises:
        UserError: If mmdet's DetTTAModel would get masks; the message has the settings that merge the boxes alone.
    """
    model = model.module if is_model_wrapper(model) else model
    if type(model).__name__ != 'DetTTAModel':
        return
    if getattr(model.module, 'with_mask', False):
        raise UserError(
            'DetTTAModel merges boxes, but not masks: to score the boxes alone, set model.roi_head.mask_head=None, '
            'model.roi_head.mask_roi_extractor=None and test_evaluator.metric=bbox, and leave out the weights of the '
            'mask head by StrictLoadHook(strict=False)'
        )
