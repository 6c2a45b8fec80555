"""The backbone alone: its forward pass without gradients, and its training step."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from mmengine_plugin.memory import bytes_kept_for_backward

from .candidates import COMPILED, PLAIN, build, drop_path_candidates, mambaout_candidates
from .measuring import CUDA, DEVICE, DTYPE, measure, profile
from .roofline import Roofline

SHAPES = ['2x800x1280'] if CUDA else ['1x800x1280']  # images x height x width
# One image either keeps a branch or drops it, so drop path needs more of them
DROP_PATH_SHAPES = ['2x800x1280'] if CUDA else ['2x512x512']
SEEDS = range(4)  # of the steps with drop path
SWEEP = ['1x256x256', '1x512x512', '1x800x1280']
if CUDA:
    SWEEP.append('1x1024x2048')


def measure_backbone(arch: str, shapes: list[str], rounds: int) -> Iterator[dict]:
    """Measure all candidates of one size of MambaOut.

    Args:
        arch: The size, for example ``'tiny'``.
        shapes: Batches, as ``'<images>x<height>x<width>'``.
        rounds: How often each candidate runs.

    Yields:
        A row of the report for each shape, pass and candidate.
    """
    models = {name: build(name, cfg) for name, cfg in mambaout_candidates(arch).items()}
    for shape in shapes:
        torch.compiler.reset()  # each shape is compiled anew
        images, height, width = map(int, shape.split('x'))
        x = torch.rand(images, 3, height, width, device=DEVICE)
        row = dict(suite=f'backbone {arch}', what='inference', shape=shape)
        runs = {name: partial(infer, model, x) for name, model in models.items()}
        for name, result in measure(runs, rounds, f'inference {shape}').items():
            yield dict(**row, candidate=name, **result)
        row['what'] = 'step'
        for name, result in measure_steps(models, x, rounds, shape).items():
            yield dict(**row, candidate=name, **result)


def measure_drop_path(arch: str, shapes: list[str], rounds: int) -> Iterator[dict]:
    """Measure training steps with the drop path rate of the detector's recipe.

    Our backbone computes the branches of the kept samples only, so its time depends on the random state. A run
    therefore takes a step from each of ``SEEDS``, the same in all rounds: over the 18 blocks of tiny and 2 images,
    these are 144 decisions.

    Args:
        arch: The size, for example ``'tiny'``.
        shapes: Batches, as ``'<images>x<height>x<width>'``.
        rounds: How often each candidate runs.

    Yields:
        A row of the report for each shape and candidate.
    """
    models = {name: build(name, cfg) for name, cfg in drop_path_candidates(arch).items()}
    for shape in shapes:
        images, height, width = map(int, shape.split('x'))
        x = torch.rand(images, 3, height, width, device=DEVICE)
        runs = {name: partial(train_steps, model, x) for name, model in models.items()}
        for name, result in measure(runs, rounds, f'steps with drop path {shape}').items():
            yield dict(suite=f'backbone {arch}', what='step with drop path', shape=shape, candidate=name, **result)


def measure_steps(models: dict[str, nn.Module], x: Tensor, rounds: int, shape: str) -> dict[str, dict]:
    """Measure the training step, the memory kept for the backward pass, the roofline and the profile."""
    steps = {name: partial(train_step, model, x) for name, model in models.items()}
    results = measure(steps, rounds, f'step {shape}')
    least = float('inf')  # seconds at the machine's rates; Triton kernels and tiles that stay in a cache count wrongly
    for name, model in models.items():
        if not name.endswith(COMPILED):
            results[name]['kept_gib'] = bytes_kept_for_backward(partial(forward, model, x), model) / 2**30
        if name in PLAIN:
            with Roofline() as roofline:
                steps[name]()
            least = min(least, roofline.seconds)
    for name, result in results.items():
        result['roofline'] = least / statistics.median(result['seconds'])
        result |= profile(steps[name], result['seconds'])
    return results


def forward(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Images ``(B, 3, H, W)`` to maps, under autocast on CUDA."""
    with torch.autocast(DEVICE, DTYPE, enabled=CUDA):
        return model(x)


def infer(model: nn.Module, x: Tensor) -> None:
    """Run the forward pass without gradients."""
    with torch.no_grad():
        forward(model, x)


def train_step(model: nn.Module, x: Tensor) -> None:
    """Run the forward and the backward pass."""
    sum(feature.float().mean() for feature in forward(model, x)).backward()
    model.zero_grad()  # within the step, so that gradients do not count as allocated before the next one


def train_steps(model: nn.Module, x: Tensor) -> None:
    """Run a training step from each seed of ``SEEDS``."""
    for seed in SEEDS:
        torch.manual_seed(seed)
        train_step(model, x)
