"""The selective scan in one direction over a detector's largest map, with gradients and without."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from backbones.ops.selective_scan import selective_scan

from .measuring import CUDA, DEVICE, measure

# positions of the map at stride 4 of 800x1280 pixels, channels, states
SIZES = {'VMamba tiny_s1l8': (64000, 96, 1), 'VMamba tiny': (64000, 192, 16)}
# the step-by-step reference is left out on a GPU, where its time says nothing
IMPLEMENTATIONS = ('chunked', 'triton') if CUDA else ('reference', 'chunked')


def measure_scan(rounds: int) -> Iterator[dict]:
    """Measure the implementations of the scan, each of them ``rounds`` times; yields rows of the report."""
    for model, (length, channels, states) in SIZES.items():
        inputs = random_inputs(length, channels, states)
        shape = f'{length}x{channels}, {states} state{"s" if states > 1 else ""}'
        for what, function in dict(inference=infer, step=train_step).items():
            runs = {name: partial(function, inputs, name) for name in IMPLEMENTATIONS}
            for name, result in measure(runs, rounds, f'scan {model} {what}').items():
                yield dict(suite=f'scan, {model}', what=what, shape=shape, candidate=name, **result)


def random_inputs(length: int, channels: int, states: int) -> list[Tensor]:
    """The arguments ``u, delta, A, B, C, D, delta_bias`` of the scan for one sequence, all with gradients."""
    u, delta = torch.randn(2, 1, length, channels, device=DEVICE)
    B, C = torch.randn(2, 1, length, states, device=DEVICE)
    A = -torch.arange(1.0, states + 1, device=DEVICE).expand(channels, -1)
    D, bias = torch.ones(channels, device=DEVICE), torch.full((channels,), -4.0, device=DEVICE)
    return [tensor.contiguous().requires_grad_() for tensor in (u, delta, A, B, C, D, bias)]


def infer(inputs: list[Tensor], implementation: str) -> None:
    """Run the scan without gradients."""
    with torch.no_grad():
        selective_scan(*inputs, implementation)


def train_step(inputs: list[Tensor], implementation: str) -> None:
    """Run the scan, and compute the gradients to all of its inputs."""
    torch.autograd.grad(selective_scan(*inputs, implementation).sum(), inputs)
