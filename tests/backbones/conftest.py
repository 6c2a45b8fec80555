"""Helpers that the tests of several backbones share."""

import torch
from torch import Tensor, nn


def noisy(module: nn.Module) -> nn.Module:
    """Move biases, norms and layer scales away from 0 and 1, which would hide errors."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        if parameter.dim() == 1:
            parameter.data.add_(0.2 * torch.randn_like(parameter))
    return module


def backward(maps: tuple[Tensor, ...]) -> None:
    """Back-propagate a loss with a random weight for each value of each map."""
    torch.manual_seed(1)
    sum((m * torch.randn(m.shape)).sum() for m in maps).backward()


def distance(a: Tensor, b: Tensor) -> float:
    """Largest difference relative to the scale of ``b``."""
    return ((a - b).abs().max() / b.abs().max()).item()
