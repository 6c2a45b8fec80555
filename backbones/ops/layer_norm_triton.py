"""LayerNorm over the last dimension as Triton kernels that also convert: from any dtype to any other, in one pass.

``F.layer_norm`` needs an input in the parameters' dtype and returns that dtype, so half precision costs further
passes. The backward pass computes mean and deviation again from ``x``. Sums are in single precision.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

VALUES = 512  # of a warp in one step: 16 of each thread, which four accesses of 16 bytes load in single precision
PROGRAMS = 2048  # of the backward pass, each with partial sums: about 16 for each multiprocessor of an H100


@triton.jit
def _normalize(x, channel, channels, eps):
    """Normalised rows, and the reciprocals of their deviations; channels outside must be zero, and stay zero."""
    mean = tl.sum(x, 1)[:, None] / channels
    centered = tl.where(channel < channels, x - mean, 0.0)
    rstd = tl.rsqrt(tl.sum(centered * centered, 1)[:, None] / channels + eps)
    return centered * rstd, rstd


@triton.jit(do_not_specialize=['rows'])
def _norm_kernel(x_ptr, weight_ptr, bias_ptr, y_ptr, rows, channels, eps, R: tl.constexpr, C: tl.constexpr):
    """A program normalises ``R`` rows."""
    row, channel = tl.program_id(0) * R + tl.arange(0, R)[:, None], tl.arange(0, C)[None, :]
    inside, at = (row < rows) & (channel < channels), row.to(tl.int64) * channels + channel
    x, _ = _normalize(tl.load(x_ptr + at, inside, 0.0).to(tl.float32), channel, channels, eps)
    weight = tl.load(weight_ptr + channel, channel < channels).to(tl.float32)
    bias = tl.load(bias_ptr + channel, channel < channels).to(tl.float32)
    tl.store(y_ptr + at, x * weight + bias, inside)


@triton.jit(do_not_specialize=['rows', 'rows_each'])
def _norm_backward_kernel(
    grad_ptr,
    x_ptr,
    weight_ptr,
    grad_x_ptr,
    sum_ptr,  # (2, programs, channels): gradients of weight and bias from the rows of each program
    rows,
    rows_each,
    channels,
    eps,
    R: tl.constexpr,
    C: tl.constexpr,
):
    """A program takes ``rows_each`` rows, ``R`` at a time."""
    channel = tl.arange(0, C)[None, :]
    weight = tl.load(weight_ptr + channel, channel < channels, 0.0).to(tl.float32)
    grad_weight, grad_bias = tl.zeros((R, C), tl.float32), tl.zeros((R, C), tl.float32)
    start = tl.program_id(0) * rows_each
    for first in tl.range(start, tl.minimum(start + rows_each, rows), R):
        row = first + tl.arange(0, R)[:, None]
        inside, at = (row < rows) & (channel < channels), row.to(tl.int64) * channels + channel
        x, rstd = _normalize(tl.load(x_ptr + at, inside, 0.0).to(tl.float32), channel, channels, eps)
        grad = tl.load(grad_ptr + at, inside, 0.0).to(tl.float32)
        grad_weight += grad * x
        grad_bias += grad
        grad *= weight
        along, mean = tl.sum(grad * x, 1)[:, None] / channels, tl.sum(grad, 1)[:, None] / channels
        tl.store(grad_x_ptr + at, (grad - x * along - mean) * rstd, inside)
    column = tl.arange(0, C)
    sum_ptr += tl.program_id(0) * channels + column
    tl.store(sum_ptr, tl.sum(grad_weight, 0), column < channels)
    tl.store(sum_ptr + tl.num_programs(0) * channels, tl.sum(grad_bias, 0), column < channels)


def _tile(channels: int) -> dict[str, int]:
    """Rows and channels of a program. It is one warp up to 512 channels, so that no sum needs a synchronisation."""
    block = triton.next_power_of_2(channels)
    return dict(R=max(VALUES // block, 1), C=block, num_warps=max(block // VALUES, 1))


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Normalise ``(..., C)``; returns rows ``(cells, C)`` in ``dtype``."""
    x = x.contiguous().view(-1, len(weight))
    rows, tile = torch.empty_like(x, dtype=dtype), _tile(len(weight))
    _norm_kernel[(triton.cdiv(len(x), tile['R']),)](x, weight, bias, rows, *x.shape, eps, **tile)
    return rows


def layer_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``x``, in its shape and dtype, and of weight and bias, in single precision.

    Args:
        grad: Gradient of the rows, ``(cells, C)``.
        x: The input ``(..., C)``.
        weight: The weight ``(C,)``.
        eps: Epsilon that is added to the variance.
    """
    rows, tile = x.contiguous().view(-1, len(weight)), _tile(len(weight))
    grad_x, steps = torch.empty_like(rows), triton.cdiv(len(rows), tile['R'])
    rows_each = triton.cdiv(steps, PROGRAMS) * tile['R']
    programs = triton.cdiv(len(rows), rows_each)
    sums = torch.empty(2, programs, len(weight), dtype=torch.float, device=x.device)
    _norm_backward_kernel[(programs,)](grad, rows, weight, grad_x, sums, len(rows), rows_each, len(weight), eps, **tile)
    return grad_x.view(x.shape), sums[0].sum(0), sums[1].sum(0)
