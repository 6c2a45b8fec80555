"""What :mod:`.gated_cnn` computes between its matrix products, as Triton kernels: the gate and its gradients.

``h = [g, i, c]`` is the output of ``fc1``, one row per cell: ``hidden`` columns of ``g``, then those of ``i``, then
those of ``c``. The last hidden channels are the convolved ones, the others are plain. Sums are in single precision.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

# The tile of a program: 5 x 16 cells, 32 channels, two warps. A thread has 8 channels of one column, so that accesses
# have 16 bytes in half precision, and the sums of its 5 outputs are in registers: a value that is loaded once is used
# for up to 5 outputs. More rows need fewer loads for each output, but registers for fewer warps. Maps of 800x1280
# images have no remainder, except 40 columns in stage 4, and neither have most published widths.
# The tile is not tuned at run time, so that results do not depend on a measurement.
TILE = dict(ROWS=5, COLUMNS=16, C=32, num_warps=2)
VECTOR = 8  # channels of a thread
PROGRAMS = 2048  # that sum up the gradients of the convolution's parameters: 16 for each multiprocessor of an H100
# One compiled kernel serves all sizes: hidden and convolved channels are passed in units of MULTIPLE, which tells the
# compiler how wide an access may be.
SIZES = ['H', 'W', 'hidden', 'convolved', 'tiles', 'tiles_each']


@triton.jit
def _normal_cdf(x):
    """``0.5 * (1 + erf(x / sqrt(2)))`` with an error below 1e-7, in half as many instructions as with ``tl.erf``.

    The polynomial is a minimax fit of the binary logarithm of the normal distribution's tail, ``log2(0.5 * erfc(a /
    sqrt(2)))``, weighted with the tail itself.
    """
    a = tl.abs(x)
    log_tail = -2.772053e-06 * a + 3.8620793e-05
    log_tail = log_tail * a - 0.00018254781
    log_tail = log_tail * a - 0.00014586962
    log_tail = log_tail * a + 0.007075471
    log_tail = log_tail * a - 0.05250503
    log_tail = log_tail * a - 0.4592049
    log_tail = log_tail * a - 1.1511058
    tail = tl.exp2(log_tail * a - 1)
    return tl.where(x < 0, tail, 1 - tail)


@triton.jit
def _act(x, SILU: tl.constexpr):
    if SILU:
        value = x * tl.sigmoid(x)
    else:
        value = x * _normal_cdf(x)
    return value


@triton.jit
def _slope(x, SILU: tl.constexpr):
    """The derivative of :func:`_act`."""
    if SILU:
        s = tl.sigmoid(x)
        value = s * (1 + x * (1 - s))
    else:
        value = _normal_cdf(x) + x * 0.3989422804014327 * tl.exp2(-0.7213475204444817 * x * x)
    return value


@triton.jit
def _origin(tile, H, W, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Row and column of a tile's first cell in its image, and the number of that cell. Tiles go down, then across."""
    down, across = tl.cdiv(H, ROWS), tl.cdiv(W, COLUMNS)
    y, x = tile % down * ROWS, tile // down % across * COLUMNS
    return y, x, ((tile // (down * across) * H + y) * W + x).to(tl.int64)


@triton.jit
def _single(x):
    """Convert to single precision, which for bfloat16 takes more instructions by ``to`` than by hand."""
    if x.dtype == tl.bfloat16:
        value = (x.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        value = x.to(tl.float32)
    return value


@triton.jit
def _load(ptr, mask):
    """Load in single precision; values outside are zero."""
    return _single(tl.load(ptr, mask, 0.0))


@triton.jit
def _convolve(
    ptr,  # first cell of the tile, first channel
    stride,  # from a cell to the next
    weight_ptr,
    channels,
    y,
    x,
    channel,
    H,
    W,
    FLIP: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The depthwise convolution without bias, or its transpose with ``FLIP``, as one tensor for each row of the tile.

    Weights are those of :func:`make_taps`. Each row of the input is loaded once for each of the ``K`` horizontal
    shifts, and added to the sums of all outputs that it belongs to.
    """
    column, inside = tl.arange(0, COLUMNS)[:, None], channel < channels
    padded = tl.cdiv(channels, channel.shape[1]) * channel.shape[1]
    total = ()
    for _ in tl.static_range(ROWS):
        total += (tl.zeros((COLUMNS, channel.shape[1]), tl.float32),)
    for kx in tl.range(K):
        weights = ()
        for ky in tl.static_range(K):
            tap = ky * K + kx
            if FLIP:
                tap = K * K - 1 - tap
            weights += (tl.load(weight_ptr + tap * padded + channel).to(tl.float32),)
        dx = kx - K // 2
        mask, offset = inside & (x + column + dx >= 0) & (x + column + dx < W), (column + dx) * stride + channel
        for loaded in tl.static_range(ROWS + K - 1):
            dy = loaded - K // 2
            value = _load(ptr + dy * W * stride + offset, mask & (y + dy >= 0) & (y + dy < H))
            sums = ()
            for row in tl.static_range(ROWS):
                if row <= loaded and loaded < row + K:
                    sums += (total[row] + value * weights[loaded - row],)
                else:
                    sums += (total[row],)
            total = sums
    return total


@triton.jit(do_not_specialize=SIZES)
def _gate_kernel(
    h_ptr,
    weight_ptr,
    bias_ptr,
    product_ptr,  # with grad_h_ptr, it holds its own gradient at first
    grad_h_ptr,
    grad_u_ptr,
    H,
    W,
    hidden,  # see SIZES
    convolved,
    MULTIPLE: tl.constexpr,
    K: tl.constexpr,
    SILU: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    C: tl.constexpr,
):
    """``product = act(g) * [i, conv(c)]``; with ``grad_h_ptr`` also the gradients of ``g``, ``i`` and ``u = conv(c)``.

    The hidden channels of a program are either all convolved or all not.
    """
    hidden, convolved = hidden * MULTIPLE, convolved * MULTIPLE
    plain, stride = hidden - convolved, 2 * hidden
    y, x, cell = _origin(tl.program_id(0), H, W, ROWS, COLUMNS)
    h_ptr += cell * stride
    product_ptr += cell * hidden
    if grad_h_ptr is not None:
        grad_h_ptr += cell * stride
        grad_u_ptr += cell * convolved
    column, first = tl.arange(0, COLUMNS)[:, None], tl.program_id(1) * C
    if first < plain:
        channel = first + tl.arange(0, C)[None, :]
        mask = (x + column < W) & (channel < plain)
        for row in tl.static_range(ROWS):
            inside, at = mask & (y + row < H), (row * W + column) * stride + channel
            g = _load(h_ptr + at, inside)
            i = _load(h_ptr + hidden + at, inside)
            value, product_at = _act(g, SILU), product_ptr + (row * W + column) * hidden + channel
            if grad_h_ptr is not None:
                grad = _load(product_at, inside)
                tl.store(grad_h_ptr + at, grad * i * _slope(g, SILU), inside)
                tl.store(grad_h_ptr + hidden + at, grad * value, inside)
            tl.store(product_at, value * i, inside)
    else:
        channel = first - tl.cdiv(plain, C) * C + tl.arange(0, C)[None, :]
        mask = (x + column < W) & (channel < convolved)
        c_ptr = h_ptr + hidden + plain
        u = _convolve(c_ptr, stride, weight_ptr, convolved, y, x, channel, H, W, False, K, ROWS, COLUMNS)
        bias = _load(bias_ptr + channel, channel < convolved)
        for row in tl.static_range(ROWS):
            inside, at = mask & (y + row < H), (row * W + column) * stride + plain + channel
            g = _load(h_ptr + at, inside)
            value, product_at = _act(g, SILU), product_ptr + (row * W + column) * hidden + plain + channel
            if grad_h_ptr is not None:
                grad = _load(product_at, inside)
                tl.store(grad_h_ptr + at, grad * (u[row] + bias) * _slope(g, SILU), inside)
                tl.store(grad_u_ptr + (row * W + column) * convolved + channel, grad * value, inside)
            tl.store(product_at, value * (u[row] + bias), inside)


@triton.jit(do_not_specialize=SIZES)
def _conv_input_kernel(
    grad_u_ptr,
    weight_ptr,
    grad_h_ptr,
    H,
    W,
    hidden,
    convolved,
    MULTIPLE: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    C: tl.constexpr,
):
    """The gradient of ``c``, which are the last columns of ``h``."""
    stride, convolved = 2 * hidden * MULTIPLE, convolved * MULTIPLE
    y, x, cell = _origin(tl.program_id(0), H, W, ROWS, COLUMNS)
    grad_u_ptr += cell * convolved
    grad_c_ptr = grad_h_ptr + cell * stride + stride - convolved
    column, channel = tl.arange(0, COLUMNS)[:, None], tl.program_id(1) * C + tl.arange(0, C)[None, :]
    total = _convolve(grad_u_ptr, convolved, weight_ptr, convolved, y, x, channel, H, W, True, K, ROWS, COLUMNS)
    for row in tl.static_range(ROWS):
        inside = (y + row < H) & (x + column < W) & (channel < convolved)
        tl.store(grad_c_ptr + (row * W + column) * stride + channel, total[row], inside)


@triton.jit(do_not_specialize=SIZES)
def _conv_weight_kernel(
    grad_u_ptr,
    h_ptr,
    weight_sum_ptr,  # (programs, convolved, K, K)
    bias_sum_ptr,  # (programs, convolved)
    H,
    W,
    hidden,
    convolved,
    tiles,
    tiles_each,
    MULTIPLE: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    C: tl.constexpr,
):
    """The gradients of one column of the convolution's weights, and of its bias, from ``tiles_each`` tiles.

    Each thread keeps sums of its own until the last tile.
    """
    stride, convolved = 2 * hidden * MULTIPLE, convolved * MULTIPLE
    column, channel = tl.arange(0, COLUMNS)[:, None], tl.program_id(1) * C + tl.arange(0, C)[None, :]
    kx = tl.program_id(2)
    dx = kx - K // 2
    bias = tl.zeros((COLUMNS, C), tl.float32)
    total = ()
    for _ in tl.static_range(K):
        total += (tl.zeros((COLUMNS, C), tl.float32),)
    start = tl.program_id(0) * tiles_each
    for tile in tl.range(start, tl.minimum(start + tiles_each, tiles)):
        y, x, cell = _origin(tile, H, W, ROWS, COLUMNS)
        u_ptr = grad_u_ptr + cell * convolved
        c_ptr = h_ptr + cell * stride + stride - convolved
        mask = (x + column < W) & (channel < convolved)
        grads = ()
        for row in tl.static_range(ROWS):
            grads += (_load(u_ptr + (row * W + column) * convolved + channel, mask & (y + row < H)),)
            if kx == 0:
                bias += grads[row]
        mask &= (x + column + dx >= 0) & (x + column + dx < W)
        offset = (column + dx) * stride + channel
        for loaded in tl.static_range(ROWS + K - 1):
            dy = loaded - K // 2
            value = _load(c_ptr + dy * W * stride + offset, mask & (y + dy >= 0) & (y + dy < H))
            sums = ()
            for ky in tl.static_range(K):
                if ky <= loaded and loaded < ky + ROWS:
                    sums += (total[ky] + value * grads[loaded - ky],)
                else:
                    sums += (total[ky],)
            total = sums
    own = tl.program_id(1) * C + tl.arange(0, C)
    at = tl.program_id(0) * convolved + own
    for ky in tl.static_range(K):
        tl.store(weight_sum_ptr + (at * K + ky) * K + kx, tl.sum(total[ky], 0), own < convolved)
    if kx == 0:
        tl.store(bias_sum_ptr + at, tl.sum(bias, 0), own < convolved)


def _arguments(
    h: Tensor, shape: torch.Size, taps: Tensor, convolved: int
) -> tuple[list[int], dict[str, int], int, list[int]]:
    """Sizes and constants for the kernels, the number of tiles, and the blocks of plain and of convolved channels."""
    images, height, width = shape[:3]
    hidden = h.shape[1] // 2
    multiple = VECTOR if hidden % VECTOR == convolved % VECTOR == 0 else 1
    tiles = images * triton.cdiv(height, TILE['ROWS']) * triton.cdiv(width, TILE['COLUMNS'])
    return (
        [height, width, hidden // multiple, convolved // multiple],
        dict(TILE, MULTIPLE=multiple, K=math.isqrt(len(taps))),
        tiles,
        [triton.cdiv(channels, TILE['C']) for channels in (hidden - convolved, convolved)],
    )


def gate(h: Tensor, shape: torch.Size, taps: Tensor, bias: Tensor, act: str) -> Tensor:
    """The product ``act(g) * [i, conv(c)]``, ``(cells, hidden)``.

    Args:
        h: ``[g, i, c]``, ``(cells, 2 * hidden)``.
        shape: Shape of the map, ``(B, H, W, ...)``.
        taps: Weights of the convolution, see :func:`make_taps`.
        bias: Bias of the convolution, ``(convolved,)``.
        act: ``'GELU'`` or ``'SiLU'``.
    """
    sizes, constants, tiles, blocks = _arguments(h, shape, taps, len(bias))
    product = h.new_empty(len(h), h.shape[1] // 2)
    _gate_kernel[(tiles, sum(blocks))](h, taps, bias, product, None, None, *sizes, SILU=act == 'SiLU', **constants)
    return product


def gate_backward(
    h: Tensor, shape: torch.Size, taps: Tensor, bias: Tensor, act: str, product: Tensor
) -> tuple[Tensor, Tensor]:
    """The gradients of ``h`` and of ``u = conv(c)``, as rows; the columns of ``c`` are not set yet.

    ``product`` holds the gradient of the product, and the product itself takes its place. The other arguments are
    those of :func:`gate`.
    """
    sizes, constants, tiles, blocks = _arguments(h, shape, taps, len(bias))
    grad_h, grad_u = torch.empty_like(h), h.new_empty(len(h), len(bias))
    arguments = h, taps, bias, product, grad_h, grad_u, *sizes
    _gate_kernel[(tiles, sum(blocks))](*arguments, SILU=act == 'SiLU', **constants)
    return grad_h, grad_u


def conv_input_backward(grad_u: Tensor, shape: torch.Size, taps: Tensor, grad_h: Tensor) -> None:
    """Write the gradient of ``c`` to its columns of ``grad_h``; the arguments are those of :func:`gate`."""
    sizes, constants, tiles, (_, blocks) = _arguments(grad_h, shape, taps, grad_u.shape[1])
    _conv_input_kernel[(tiles, blocks)](grad_u, taps, grad_h, *sizes, **constants)


def conv_weight_backward(grad_u: Tensor, h: Tensor, shape: torch.Size, taps: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of the convolution's weight, ``(convolved, 1, K, K)``, and of its bias, in single precision."""
    sizes, constants, tiles, (_, blocks) = _arguments(h, shape, taps, grad_u.shape[1])
    kernel, convolved = constants['K'], grad_u.shape[1]
    tiles_each = triton.cdiv(tiles * blocks * kernel, PROGRAMS)
    programs = triton.cdiv(tiles, tiles_each)
    sums = torch.empty(programs, convolved, 1, kernel, kernel, dtype=torch.float, device=h.device)
    bias_sums = torch.empty(programs, convolved, dtype=torch.float, device=h.device)
    arguments = grad_u, h, sums, bias_sums, *sizes, tiles, tiles_each
    _conv_weight_kernel[(programs, blocks, kernel)](*arguments, **constants)
    return sums.sum(0), bias_sums.sum(0)


def make_taps(weight: Tensor) -> Tensor:
    """The convolution's weights ``(convolved, 1, K, K)`` as ``(K * K, convolved)``.

    Neighbouring channels are then loaded together. Channels are padded to full blocks, so that no load needs a mask.
    """
    taps = weight.flatten(1).T
    if extra := -len(weight) % TILE['C']:
        return F.pad(taps, (0, extra))
    return taps.contiguous()
