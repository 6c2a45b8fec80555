"""Launches of the selective scan's Triton kernels as VMamba makes them, for :mod:`.compiled`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from backbones.ops import selective_scan_adjoint_triton, selective_scan_triton
from backbones.ops.selective_scan import chunks_and_steps

BATCH = 2  # images of 800x1280 pixels
ORDERS = 0b11_10_01_00  # rows, columns, and both reversed
# Scanned channels, channels of the block, states, height and width of the map. These are the largest and the smallest
# map of the vanilla family, and the largest one of the later family. The kernels of all other sizes have the same code,
# because Triton only asks whether a number is divisible by 16. Only the carry kernel depends on the number of chunks.
SIZES = ((192, 96, 16, 200, 320), (1536, 768, 16, 25, 40), (96, 96, 1, 200, 320))


def launches() -> Iterator[tuple[str, Callable[[], None]]]:
    """Names such as ``'scan 192x16, forward'``, and functions that launch a pass's kernels with meta tensors."""
    for channels, dim, states, height, width in SIZES:
        inputs = _inputs(channels, math.ceil(dim / 16), states, height * width)
        chunks, steps = chunks_and_steps(height * width)
        options = dict(steps=steps, width=width, orders=ORDERS)
        forward = partial(selective_scan_triton.scan, *inputs, chunks=chunks, **options)
        yield f'scan {channels}x{states}, forward', forward
        grad = _meta(BATCH, height * width, channels, dtype=torch.float).expand(inputs[0].shape)
        first_states = _meta(4, BATCH, chunks, states, channels, dtype=torch.float)
        backward = partial(selective_scan_adjoint_triton.scan_backward, grad, first_states, *inputs, **options)
        yield f'scan {channels}x{states}, backward', backward


def _inputs(channels: int, rank: int, states: int, length: int) -> tuple[Tensor, ...]:
    """The input tensors of a scan in four orders under autocast, with the strides that ``MapS6`` gives them."""
    part = rank + 2 * states
    part += -part % 16 if states % 16 == 0 else 0
    projected = _meta(BATCH, length, 4, part).permute(2, 0, 1, 3)
    u = _meta(BATCH, length, channels).expand(4, -1, -1, -1)
    A, vector = _meta(4, channels, states, dtype=torch.float), _meta(4, channels, dtype=torch.float)
    B, C = projected[..., -2 * states : -states], projected[..., -states:]
    return u, _meta(4, BATCH, length, channels), A, B, C, vector, vector


def _meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device='meta')
