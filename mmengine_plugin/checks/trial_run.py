"""A trial of a backbone or a neck."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def feature_maps(module: nn.Module, inputs: object) -> list[Tensor]:
    """Run a backbone or a neck without gradients. The random state and the modes of its modules do not change.

    Args:
        module: The backbone or the neck.
        inputs: What it is called with.

    Returns:
        The maps ``(B, C, H, W)`` that it returns; an empty list if it fails or returns something else.
    """
    with _trial(module):
        try:
            outputs = module(inputs)
        except Exception:  # any: this input is ours, and whether the module takes it is the question
            return []
    if isinstance(outputs, list | tuple) and all(isinstance(x, Tensor) and x.ndim == 4 for x in outputs):
        return list(outputs)
    return []


@contextmanager
def _trial(module: nn.Module) -> Iterator[None]:
    """Set a module to evaluation mode for a block of code without gradients, and restore modes and random states."""
    modes = {part: part.training for part in module.modules()}
    devices = {p.device for p in module.parameters() if p.is_cuda}
    module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices):
            yield
    finally:
        for part, mode in modes.items():
            part.training = mode
