"""The gate of :mod:`.gated_cnn` and the gradients of its convolution as Triton kernels.

The gate computes ``act(g) * [i, conv(c)]``. ``[g, i]`` has one row per cell, and ``c`` is ``(B, H, W, channels)``. A
program takes a tile of cells and a block of hidden channels that are either all convolved or all not. Sums are in
single precision.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 8  # height and width of a tile in cells
BLOCK = 32  # channels: 64 bytes of a cell in half precision
SUMS = 64  # partial sums of a weight's gradient


@triton.jit
def _act(x, SILU: tl.constexpr):
    if SILU:
        value = x * tl.sigmoid(x)
    else:
        value = 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    return value


@triton.jit
def _slope(x, SILU: tl.constexpr):
    """The derivative of :func:`_act`."""
    if SILU:
        s = tl.sigmoid(x)
        value = s * (1 + x * (1 - s))
    else:
        value = 0.5 * (1 + tl.erf(x * 0.7071067811865476)) + x * tl.exp(-0.5 * x * x) * 0.3989422804014327
    return value


@triton.jit
def _cells(tile, H, W, T: tl.constexpr):
    """Image index, row and column of each cell of a tile."""
    across = tl.cdiv(W, T)
    tiles = tl.cdiv(H, T) * across
    cell = tl.arange(0, T * T)
    return tile // tiles, tile % tiles // across * T + cell // T, tile % across * T + cell % T


@triton.jit
def _load(ptr, image, y, x, channel, H, W, channels):
    """Load cells and channels of a tensor ``(B, H, W, channels)``; values outside are zero."""
    inside = ((y >= 0) & (y < H) & (x >= 0) & (x < W))[:, None] & (channel < channels)[None, :]
    cell = ((image * H + y) * W + x).to(tl.int64)
    return tl.load(ptr + cell[:, None] * channels + channel[None, :], inside, 0.0).to(tl.float32)


@triton.jit
def _convolve(ptr, weight_ptr, image, y, x, channel, H, W, channels, K: tl.constexpr, FLIP: tl.constexpr):
    """The depthwise convolution without bias at some cells, or its transpose with ``FLIP``."""
    total = tl.zeros((y.shape[0], channel.shape[0]), tl.float32)
    for tap in tl.static_range(K * K):
        number = K * K - 1 - tap if FLIP else tap
        weight = tl.load(weight_ptr + channel * (K * K) + number, channel < channels, 0.0).to(tl.float32)
        total += (
            _load(ptr, image, y + tap // K - K // 2, x + tap % K - K // 2, channel, H, W, channels) * weight[None, :]
        )
    return total


@triton.jit
def _gate_kernel(
    gi_ptr,
    c_ptr,
    weight_ptr,
    bias_ptr,
    product_ptr,
    grad_ptr,  # gradient of the product
    grad_gi_ptr,
    grad_u_ptr,
    H,
    W,
    hidden,
    convolved,
    K: tl.constexpr,
    SILU: tl.constexpr,
    BACKWARD: tl.constexpr,
    T: tl.constexpr,
    C: tl.constexpr,
):
    """``product = act(g) * [i, conv(c)]``; with ``BACKWARD`` also the gradients of ``[g, i]`` and ``u = conv(c)``."""
    image, y, x = _cells(tl.program_id(0), H, W, T)
    row = ((image * H + y) * W + x).to(tl.int64)[:, None]
    within = ((y < H) & (x < W))[:, None]
    plain = hidden - convolved  # channels that are not convolved
    first = tl.program_id(1) * C
    is_plain = first < plain
    if is_plain:
        channel = first + tl.arange(0, C)
        inside = within & (channel < plain)[None, :]
        factor = tl.load(gi_ptr + row * (hidden + plain) + (hidden + channel)[None, :], inside, 0.0).to(tl.float32)
    else:
        own = first - tl.cdiv(plain, C) * C + tl.arange(0, C)
        channel = plain + own
        inside = within & (own < convolved)[None, :]
        factor = _convolve(c_ptr, weight_ptr, image, y, x, own, H, W, convolved, K, False)
        factor += tl.load(bias_ptr + own, own < convolved, 0.0).to(tl.float32)[None, :]
    g = tl.load(gi_ptr + row * (hidden + plain) + channel[None, :], inside, 0.0).to(tl.float32)
    value = _act(g, SILU)
    tl.store(product_ptr + row * hidden + channel[None, :], value * factor, inside)
    if BACKWARD:
        grad = tl.load(grad_ptr + row * hidden + channel[None, :], inside, 0.0).to(tl.float32)
        tl.store(grad_gi_ptr + row * (hidden + plain) + channel[None, :], grad * factor * _slope(g, SILU), inside)
        if is_plain:
            tl.store(grad_gi_ptr + row * (hidden + plain) + (hidden + channel)[None, :], grad * value, inside)
        else:
            tl.store(grad_u_ptr + row * convolved + (channel - plain)[None, :], grad * value, inside)


@triton.jit
def _conv_input_kernel(
    grad_u_ptr, weight_ptr, grad_c_ptr, H, W, channels, K: tl.constexpr, T: tl.constexpr, C: tl.constexpr
):
    """The gradient of ``c``."""
    image, y, x = _cells(tl.program_id(0), H, W, T)
    channel = tl.program_id(1) * C + tl.arange(0, C)
    total = _convolve(grad_u_ptr, weight_ptr, image, y, x, channel, H, W, channels, K, True)
    row = ((image * H + y) * W + x).to(tl.int64)[:, None]
    inside = ((y < H) & (x < W))[:, None] & (channel < channels)[None, :]
    tl.store(grad_c_ptr + row * channels + channel[None, :], total, inside)


@triton.jit
def _conv_weight_kernel(
    grad_u_ptr,
    c_ptr,
    sum_ptr,
    H,
    W,
    channels,
    tiles,
    tiles_each,
    K: tl.constexpr,
    T: tl.constexpr,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """One row of the gradient of the convolution's weight, summed over some tiles.

    Writes ``(sums, K, COLUMNS, channels)``, where ``COLUMNS`` is ``K`` rounded up to a power of 2.
    """
    channel = tl.program_id(1) * C + tl.arange(0, C)
    dy = tl.program_id(2) - K // 2
    column = tl.arange(0, COLUMNS)[:, None]
    total = tl.zeros((COLUMNS, C), tl.float32)
    start = tl.program_id(0) * tiles_each
    for tile in range(start, tl.minimum(start + tiles_each, tiles)):
        image, y, x = _cells(tile, H, W, T)
        grad = _load(grad_u_ptr, image, y, x, channel, H, W, channels)
        for tap in range(K):
            row_sum = tl.sum(_load(c_ptr, image, y + dy, x + tap - K // 2, channel, H, W, channels) * grad, 0)
            total += tl.where(column == tap, row_sum[None, :], 0.0)
    row = (tl.program_id(0) * K + tl.program_id(2)) * COLUMNS + column
    tl.store(sum_ptr + row * channels + channel[None, :], total, (channel < channels)[None, :])


def _tiles(c: Tensor) -> int:
    images, height, width, _ = c.shape
    return images * triton.cdiv(height, TILE) * triton.cdiv(width, TILE)


def _run_gate(gi: Tensor, c: Tensor, weight: Tensor, bias: Tensor, act: str, *gradients: Tensor | None) -> Tensor:
    _, height, width, convolved = c.shape
    hidden = (gi.shape[1] + convolved) // 2
    product = gi.new_empty(len(gi), hidden)
    blocks = triton.cdiv(hidden - convolved, BLOCK) + triton.cdiv(convolved, BLOCK)
    with torch.cuda.device_of(c):  # Triton launches on the current device
        _gate_kernel[(_tiles(c), blocks)](
            *(gi, c, weight, bias, product, *gradients, height, width, hidden, convolved),
            K=weight.shape[-1],
            SILU=act == 'SiLU',
            BACKWARD=gradients[0] is not None,
            T=TILE,
            C=BLOCK,
        )
    return product


def gate(gi: Tensor, c: Tensor, weight: Tensor, bias: Tensor, act: str) -> Tensor:
    """The product ``act(g) * [i, conv(c)]``, ``(cells, hidden)``."""
    return _run_gate(gi, c, weight, bias, act, None, None, None)


def gate_backward(
    gi: Tensor, c: Tensor, weight: Tensor, bias: Tensor, act: str, grad: Tensor, grad_u: Tensor
) -> tuple[Tensor, Tensor]:
    """The product and the gradient of ``[g, i]``; the gradient of ``conv(c)`` is written to ``grad_u``."""
    grad_gi = torch.empty_like(gi)
    return _run_gate(gi, c, weight, bias, act, grad, grad_gi, grad_u), grad_gi


def conv_backward(grad_u: Tensor, c: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``c``, as rows, and of the convolution's weight and bias."""
    _, height, width, channels = c.shape
    kernel, tiles, blocks = weight.shape[-1], _tiles(c), triton.cdiv(channels, BLOCK)
    sizes, grad_c = (height, width, channels), torch.empty_like(c)
    tiles_each, columns = triton.cdiv(tiles, SUMS), triton.next_power_of_2(kernel)
    sums = c.new_empty((triton.cdiv(tiles, tiles_each), kernel, columns, channels), dtype=torch.float)
    with torch.cuda.device_of(c):
        _conv_input_kernel[(tiles, blocks)](grad_u, weight, grad_c, *sizes, K=kernel, T=TILE, C=BLOCK)
        _conv_weight_kernel[(len(sums), blocks, kernel)](
            *(grad_u, c, sums, *sizes, tiles, tiles_each), K=kernel, T=TILE, C=BLOCK, COLUMNS=columns
        )
    grad_weight = sums.sum(0)[:, :kernel].permute(2, 0, 1).unsqueeze(1).contiguous()
    return grad_c.flatten(0, -2), grad_weight, grad_u.sum((0, 1, 2), dtype=torch.float)
