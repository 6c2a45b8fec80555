"""The time that the host spends in named functions."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterator
from unittest.mock import patch

from mmengine.optim import OptimWrapper
from torch import nn

Functions = dict[str, tuple[object, str]]  # an owner and the name of its attribute, by what the function does


@contextlib.contextmanager
def timed(functions: Functions) -> Iterator[dict[str, float]]:
    """Add up how long each function runs, with all that it calls.

    The GPU is not waited for: on CUDA, a time is that of Python and of the launches, and contains a wait only where
    the function itself waits for a result.

    Args:
        functions: Methods of objects, of classes or functions of modules, by the names of the result.

    Yields:
        The seconds in each function since the beginning, by its name.
    """
    seconds = dict.fromkeys(functions, 0.0)
    with contextlib.ExitStack() as stack:
        for name, (owner, attribute) in functions.items():
            stack.enter_context(patch.object(owner, attribute, _timed(getattr(owner, attribute), name, seconds)))
        yield seconds


def _timed(function: Callable, name: str, seconds: dict[str, float]) -> Callable:
    @functools.wraps(function)
    def run(*args: object, **kwargs: object) -> object:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[name] += time.perf_counter() - start

    return run


def functions_of_step(model: nn.Module, optimizer: OptimWrapper) -> Functions:
    """The parts of a training step of Mask R-CNN or UperNet; a part of another one names it first."""
    parts: Functions = {
        'data preprocessor': (model.data_preprocessor, 'forward'),
        'backbone': (model.backbone, 'forward'),
    }
    if hasattr(model, 'roi_head'):
        rpn, roi = model.rpn_head, model.roi_head
        parts |= {
            'FPN': (model.neck, 'forward'),
            'RPN': (rpn, 'loss_and_predict'),
            'RPN: convolutions': (rpn, 'forward'),
            'RPN: loss': (rpn, 'loss_by_feat'),
            'RPN: loss: anchors': (rpn, 'get_anchors'),
            'RPN: loss: targets': (rpn, 'get_targets'),
            'RPN: proposals': (rpn, 'predict_by_feat'),
            'RoI head': (roi, 'loss'),
            'RoI head: assigner': (roi.bbox_assigner, 'assign'),
            'RoI head: sampler': (roi.bbox_sampler, 'sample'),
            'RoI head: boxes': (roi, 'bbox_loss'),
            'RoI head: boxes: RoIAlign': (roi.bbox_roi_extractor, 'forward'),
            'RoI head: masks': (roi, 'mask_loss'),
            'RoI head: masks: RoIAlign': (roi.mask_roi_extractor, 'forward'),
            'RoI head: masks: targets': (roi.mask_head, 'get_targets'),
        }
    else:
        parts |= {
            'UPerHead': (model.decode_head, 'loss'),
            'UPerHead: loss': (model.decode_head, 'loss_by_feat'),
            'auxiliary head': (model.auxiliary_head, 'loss'),
            'auxiliary head: loss': (model.auxiliary_head, 'loss_by_feat'),
        }
    return parts | {
        'losses for the log': (model, 'parse_losses'),
        'backward pass': (optimizer, 'backward'),
        'optimizer': (optimizer, 'step'),
        'clearing of gradients': (optimizer, 'zero_grad'),
    }


def host_times(run: Callable[[], object], functions: Functions, steps: int) -> dict[str, float]:
    """Measure the host's seconds in each function, per step.

    Args:
        run: Runs a step.
        functions: Parts of the step.
        steps: How many steps are run.

    Returns:
        Seconds by the names of the functions, after the seconds of the ``whole step``.
    """
    start = time.perf_counter()
    with timed(functions) as seconds:
        for _ in range(steps):
            run()
    whole = time.perf_counter() - start
    return {name: total / steps for name, total in ({'whole step': whole} | seconds).items()}
