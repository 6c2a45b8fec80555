"""The passes of :mod:`.selective_scan` as Triton kernels, for several scan orders of a map in one launch.

A program steps through one chunk of one sequence. It is a single warp: a thread has all states of its one or two
channels in its registers, so the recurrence and all sums over states stay inside a thread. Sequences are read where
they are in the map, see :func:`_program`. Tensors have the orders as their first dimension. States and sums are in
single precision. Offsets inside a sequence are 32 bits wide.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Positions that are unrolled, and distance of the states that the backward pass keeps in memory. Of 16 states, every
# fourth moves 32 bytes per position and channel, there and back. Every eighth would move 16, but the registers for the
# states between would spill. All would move 128, more than everything else together.
GROUP = 4
CARRIED = 256  # chunks that the carry kernel scans at once
CHANNELS = 8  # channels of its programs: 32 bytes, the least that memory moves


@triton.jit
def _softplus(x):
    """``log(1 + exp(x))`` and its slope; ``log(1 + e)`` is ``2 artanh(e / (2 + e))``, and its series ends early."""
    e = tl.exp2(-1.4426950408889634 * tl.abs(x))
    s = e / (2 + e)
    q = s * s
    series = 1 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + q * (1 / 13))))))
    return tl.maximum(x, 0.0) + 2 * s * series, tl.where(x > 0, 1.0, e) / (1 + e)


@triton.jit
def _program(batch, L, width, orders, steps, chunks, D, W: tl.constexpr):
    """What a program computes: channel block, chunk, sequence, sample, order, ``backward``, ``stride``, start, end.

    Reading position after position moves by ``stride`` cells, and back by ``L - 1`` beyond the end of the map: in
    columns, the next one begins there. A backward order is the forward order in the map read from its last cell.
    """
    blocks = tl.cdiv(D, W)
    block, own = tl.program_id(0) % blocks, (tl.program_id(0) // blocks).to(tl.int64)
    sequence, chunk = own // chunks, (own % chunks).to(tl.int32)
    sample, order = sequence % batch, sequence // batch
    code = (orders >> (2 * order).to(tl.int32)) & 3
    # columns of one cell are a row, and a map of one cell has no next one
    stride = tl.minimum(tl.where((code % 2 == 1) & (width < L), width, 1), L - 1)
    start = chunk * steps
    return block, own, sequence, chunk, sample, order, code >= 2, stride, start, tl.minimum(start + steps, L)


@triton.jit
def _rows(ptr, strides, order, sample, L, backward):
    """Pointer to a sequence's first row, and the distance of rows; ``strides`` are those of order, sample and row."""
    row = strides[2]
    ptr += order * strides[0] + sample * strides[1] + tl.where(backward, (L - 1) * row, 0)
    return ptr, tl.where(backward, -row, row)


@triton.jit
def _cell(t, stride, L):
    """The cell at position ``t``."""
    line = L // tl.maximum(stride, 1)
    return t % line * stride + t // line


@triton.jit
def _next(cell, stride, L):
    """The cell at the next position."""
    cell += stride
    return tl.where(cell >= L, cell - L + 1, cell)


@triton.jit
def _tile(block, order, D, one, A_ptr, N: tl.constexpr, W: tl.constexpr):
    """State and channel indices, masks of channels and of a tile, offsets in a state ``(N, D)``, and ``A`` for exp2.

    ``one`` is 1. If Triton knew that, it would load and store a tile with 4 neighbouring channels in each thread, and
    exchange them between threads through shared memory.
    """
    state = tl.arange(0, triton.next_power_of_2(N))[:, None]
    channel = (block * W + tl.arange(0, W))[None, :]
    real = channel < D
    within = (state < N) & real
    A = tl.load(A_ptr + ((order * D + channel) * N + state) * one, within, 0.0).to(tl.float32)
    return state, channel, real, within, (state * D + channel) * one, A * 1.4426950408889634


@triton.jit
def _load(ptr, mask):
    return tl.load(ptr, mask, 0.0).to(tl.float32)


@triton.jit
def _load_delta(ptr, mask, bias):
    """Step sizes and their slopes; both are 0 outside, which leaves states as they are."""
    return _softplus(tl.load(ptr, mask, float('-inf')).to(tl.float32) + bias)


@triton.jit(do_not_specialize=['one'])
def _scan_kernel(
    u_ptr,
    delta_ptr,
    A_ptr,
    B_ptr,
    C_ptr,
    D_ptr,
    bias_ptr,
    states_ptr,  # (orders, batch, chunks, N, D)
    total_ptr,  # (orders, batch, chunks, D)
    y_ptr,
    u_strides,  # of order, sample and row
    delta_strides,
    B_strides,
    C_strides,
    y_strides,
    batch,
    L,
    width,
    orders,
    steps,
    chunks,
    D,
    one,
    N: tl.constexpr,
    W: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Step through a chunk, ``N`` states of ``W`` channels.

    With ``total_ptr``, start from zero, and write the last state and the sum of ``delta`` at the next chunk's place.
    With ``y_ptr``, start from the chunk's first state, and write the output.
    """
    block, own, sequence, chunk, sample, order, backward, stride, start, end = _program(
        batch, L, width, orders, steps, chunks, D, W
    )
    state, channel, real, within, where, A = _tile(block, order, D, one, A_ptr, N, W)
    u_ptr, u_row = _rows(u_ptr, u_strides, order, sample, L, backward)
    delta_ptr, delta_row = _rows(delta_ptr, delta_strides, order, sample, L, backward)
    B_ptr, B_row = _rows(B_ptr, B_strides, order, sample, L, backward)
    C_ptr, C_row = _rows(C_ptr, C_strides, order, sample, L, backward)
    bias = _load(bias_ptr + order * D + channel, real)
    total = tl.zeros((1, W), tl.float32)
    if total_ptr is not None:
        h = tl.zeros(A.shape, tl.float32)
    else:
        h = tl.load(states_ptr + own * N * D + where, within, 0.0)
        skip = _load(D_ptr + order * D + channel, real)
        y_ptr, y_row = _rows(y_ptr, y_strides, order, sample, L, backward)
    cell = _cell(start, stride, L)
    for t in range(start, end, GROUP):
        cells, ys = (), ()
        # positions beyond the end are still cells of the map, and change nothing, because their step size is 0
        for j in tl.static_range(GROUP):
            u = _load(u_ptr + cell * u_row + channel, real)
            delta, _ = _load_delta(delta_ptr + cell * delta_row + channel, real & (t + j < end), bias)
            h = tl.exp2(delta * A) * h + _load(B_ptr + cell * B_row + state, state < N) * (delta * u)
            total += delta
            if y_ptr is not None:
                y = tl.sum(_load(C_ptr + cell * C_row + state, state < N) * h, 0, keep_dims=True)
                ys = ys + (y + skip * u,)
            cells = cells + (cell,)
            cell = _next(cell, stride, L)
        if y_ptr is not None:
            for j in tl.static_range(GROUP):  # after all loads, which cannot overtake a store
                tl.store(y_ptr + cells[j] * y_row + channel, ys[j], real & (t + j < end))
    if total_ptr is not None:
        last = chunk + 1 == chunks  # the first chunk starts from zero
        place = tl.where(last, sequence * chunks, own + 1)
        tl.store(total_ptr + place * D + channel, tl.where(last, 0.0, total), real)
        tl.store(states_ptr + place * N * D + where, tl.where(last, 0.0, h), within)


@triton.jit
def _then(decay, state, later_decay, later_state):
    return decay * later_decay, later_decay * state + later_state


@triton.jit
def _carry_kernel(
    A_ptr,
    states_ptr,
    total_ptr,
    batch,
    chunks,
    D,
    N: tl.constexpr,
    REVERSE: tl.constexpr,
    CARRIED: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Carry each chunk's first state through to the next one's: an associative scan of a tile of chunks and channels.

    A program has one of the ``N`` states, so that there are many.
    """
    blocks = tl.cdiv(D, CHANNELS)
    block, n = tl.program_id(0) % blocks, tl.program_id(0) // blocks % N
    sequence = (tl.program_id(0) // (blocks * N)).to(tl.int64)
    channel = (block * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    real = channel < D
    rate = _load(A_ptr + (sequence // batch * D + channel) * N + n, real) * 1.4426950408889634
    index = tl.arange(0, CARRIED)[:, None]
    before = tl.zeros((1, CHANNELS), tl.float32)
    for start in range(0, chunks, CARRIED):
        chunk = start + index
        mask = (chunk < chunks) & real
        place = sequence * chunks + (chunks - 1 - chunk if REVERSE else chunk)
        ptr = states_ptr + (place * N + n) * D + channel
        decay = tl.exp2(_load(total_ptr + place * D + channel, mask) * rate)
        decay, h = tl.associative_scan((decay, _load(ptr, mask)), 0, _then)
        h += decay * before
        tl.store(ptr, h, mask)
        before = tl.sum(tl.where(index == CARRIED - 1, h, 0.0), 0, keep_dims=True)


def _prepare(*inputs: Tensor) -> list[Tensor]:
    """Give all inputs the dimension of orders, and copy those with strides that the kernels do not take."""
    if inputs[0].dim() == 3:
        inputs = tuple(x[None] for x in inputs)
    return [x if x.dim() == 4 and x.stride(3) == 1 else x.contiguous() for x in inputs]


def _strides(*tensors: Tensor) -> list[tuple[int, ...]]:
    return [x.stride()[:3] for x in tensors]


def _layout(delta: Tensor, count: int, chunks: int, steps: int, width: int, orders: int) -> tuple[int, tuple, dict]:
    """Number of programs, sizes and constants for the kernels that step through chunks."""
    number, batch, length, channels = delta.shape
    # a thread has one channel, or two if their states are few; more would leave threads of narrow models idle
    constants = dict(N=count, W=32 if count > 4 else 64, GROUP=GROUP, num_warps=1)
    programs = number * batch * chunks * triton.cdiv(channels, constants['W'])
    return programs, (batch, length, width, orders, steps, chunks, channels, 1), constants


def _carry(A: Tensor, states: Tensor, total: Tensor, reverse: bool) -> None:
    number, batch, chunks, count, channels = states.shape
    tile = dict(CARRIED=min(triton.next_power_of_2(chunks), CARRIED), CHANNELS=CHANNELS)
    grid = (number * batch * count * triton.cdiv(channels, CHANNELS),)
    _carry_kernel[grid](A, states, total, batch, chunks, channels, N=count, REVERSE=reverse, **tile)


def scan(*inputs: Tensor, chunks: int, steps: int, width: int = 1, orders: int = 0) -> tuple[Tensor, Tensor]:
    """Scan the input tensors of :func:`.selective_scan.scan`; return the output and the chunks' first states."""
    shape = inputs[1].shape
    u, delta, A, B, C, D, bias = inputs = _prepare(*inputs)
    count = A.shape[2]
    programs, sizes, constants = _layout(delta, count, chunks, steps, width, orders)
    total = delta.new_empty(*delta.shape[:2], chunks, delta.shape[3], dtype=torch.float)
    states, y = total.new_empty(*total.shape[:3], count, total.shape[3]), total.new_empty(delta.shape)
    strides = _strides(u, delta, B, C, y)
    with torch.cuda.device_of(u):  # Triton launches on the current device
        _scan_kernel[(programs,)](*inputs, states, total, None, *strides, *sizes, **constants)
        _carry(A, states, total, reverse=False)
        _scan_kernel[(programs,)](*inputs, states, None, y, *strides, *sizes, **constants)
    return y.view(shape), states.view(*shape[:-2], *states.shape[2:])
