"""The selective scan in one direction over a detector's largest map, with gradients and without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from backbones.ops.selective_scan import selective_scan

from .measuring import CUDA, DEVICE, measure

# positions of the map at stride 4 of 800x1280 pixels, channels, states
SIZES = {'VMamba tiny_s1l8': (64000, 96, 1), 'VMamba tiny': (64000, 192, 16)}
# the step-by-step reference is left out on a GPU, where its time says nothing
IMPLEMENTATIONS = ('chunked', 'triton') if CUDA else ('reference', 'chunked')
# its package may have been built without its CUDA kernels, the second module
WITH_MAMBA_SSM = CUDA and all(map(find_spec, ('mamba_ssm', 'selective_scan_cuda')))


def measure_scan(rounds: int) -> Iterator[dict]:
    """Measure the implementations of the scan, each of them ``rounds`` times; yields rows of the report."""
    for model, (length, channels, states) in SIZES.items():
        inputs = random_inputs(length, channels, states)
        shape = f'{length}x{channels}, {states} state{"s" if states > 1 else ""}'
        for what, function in dict(inference=infer, step=train_step).items():
            runs = {
                name: partial(function, partial(selective_scan, implementation=name), inputs)
                for name in IMPLEMENTATIONS
            }
            if WITH_MAMBA_SSM:
                runs['mamba_ssm'] = partial(function, mamba_ssm_scan(), mamba_ssm_layout(*inputs))
            for name, result in measure(runs, rounds, f'scan {model} {what}').items():
                yield dict(suite=f'scan, {model}', what=what, shape=shape, candidate=name, **result)


def random_inputs(length: int, channels: int, states: int) -> list[Tensor]:
    """The arguments ``u, delta, A, B, C, D, delta_bias`` of the scan for one sequence, all with gradients."""
    u, delta = torch.randn(2, 1, length, channels, device=DEVICE)
    B, C = torch.randn(2, 1, length, states, device=DEVICE)
    A = -torch.arange(1.0, states + 1, device=DEVICE).expand(channels, -1)
    D, bias = torch.ones(channels, device=DEVICE), torch.full((channels,), -4.0, device=DEVICE)
    return [tensor.contiguous().requires_grad_() for tensor in (u, delta, A, B, C, D, bias)]


def mamba_ssm_scan() -> Callable[..., Tensor]:
    """The scan of Mamba's own package, with its arguments in our order."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # where it is installed

    def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor) -> Tensor:
        return selective_scan_fn(u, delta, A, B, C, D, delta_bias=delta_bias, delta_softplus=True)

    return scan


def mamba_ssm_layout(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor
) -> list[Tensor]:
    """Copies of the arguments with the positions last: ``(1, D, L)`` and, for ``B`` and ``C``, ``(1, N, L)``."""
    u, delta, B, C = (tensor.transpose(1, 2) for tensor in (u, delta, B, C))
    copies = (
        tensor.detach().clone(memory_format=torch.contiguous_format) for tensor in (u, delta, A, B, C, D, delta_bias)
    )
    return [copy.requires_grad_() for copy in copies]


def infer(scan: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    """Run a scan without gradients."""
    with torch.no_grad():
        scan(*inputs)


def train_step(scan: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    """Run a scan, and compute the gradients to all of its inputs."""
    torch.autograd.grad(scan(*inputs).sum(), inputs)
