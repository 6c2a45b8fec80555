"""The backward pass of the selective scan as Triton kernels, see :mod:`.selective_scan_triton`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .selective_scan_triton import (
    GROUP,
    _carry,
    _cell,
    _layout,
    _load,
    _load_delta,
    _next,
    _prepare,
    _program,
    _rows,
    _strides,
    _tile,
)

ROWS = 32  # positions of a program of the kernel that adds up blocks


@triton.jit(do_not_specialize=['one'])
def _rewalk_kernel(
    grad_ptr,
    u_ptr,
    delta_ptr,
    A_ptr,
    B_ptr,
    C_ptr,
    bias_ptr,
    states_ptr,
    total_ptr,
    grad_states_ptr,  # gradients of the chunks' last states, (orders, batch, chunks, N, D)
    kept_ptr,  # states before each group, (orders, batch, chunks, groups, N, D)
    grad_strides,
    u_strides,
    delta_strides,
    B_strides,
    C_strides,
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
    """Step through a chunk as :func:`_scan_kernel` does, and keep the state before each group.

    Also write the gradient of the first state through the chunk alone, at the previous chunk's place.
    """
    block, own, sequence, chunk, sample, order, backward, stride, start, end = _program(
        batch, L, width, orders, steps, chunks, D, W
    )
    state, channel, real, within, where, A = _tile(block, order, D, one, A_ptr, N, W)
    grad_ptr, grad_row = _rows(grad_ptr, grad_strides, order, sample, L, backward)
    u_ptr, u_row = _rows(u_ptr, u_strides, order, sample, L, backward)
    delta_ptr, delta_row = _rows(delta_ptr, delta_strides, order, sample, L, backward)
    B_ptr, B_row = _rows(B_ptr, B_strides, order, sample, L, backward)
    C_ptr, C_row = _rows(C_ptr, C_strides, order, sample, L, backward)
    kept_ptr += own * tl.cdiv(steps, GROUP) * N * D + where
    bias = _load(bias_ptr + order * D + channel, real)
    total = tl.zeros((1, W), tl.float32)
    h = tl.load(states_ptr + own * N * D + where, within, 0.0)
    g, product = tl.zeros(A.shape, tl.float32), tl.full(A.shape, 1.0, tl.float32)
    cell = _cell(start, stride, L)
    for t in range(start, end, GROUP):
        tl.store(kept_ptr, h, within)
        kept_ptr += N * D
        for j in tl.static_range(GROUP):
            there = t + j < end
            u = _load(u_ptr + cell * u_row + channel, real)
            grad = _load(grad_ptr + cell * grad_row + channel, real & there)
            delta, _ = _load_delta(delta_ptr + cell * delta_row + channel, real & there, bias)
            decay = tl.exp2(delta * A)
            h = decay * h + _load(B_ptr + cell * B_row + state, state < N) * (delta * u)
            product *= decay
            g += product * (_load(C_ptr + cell * C_row + state, state < N) * grad)
            total += delta
            cell = _next(cell, stride, L)
    first = chunk == 0  # nothing follows the last chunk
    place = tl.where(first, (sequence + 1) * chunks - 1, own - 1)
    tl.store(total_ptr + place * D + channel, tl.where(first, 0.0, total), real)
    tl.store(grad_states_ptr + place * N * D + where, tl.where(first, 0.0, g), within)


@triton.jit
def _sum_channels(x, y, W: tl.constexpr):
    """Sums of the rows of ``x``, then of ``y``, both ``(16, 32)``, over the channels, as ``(1, 32)``.

    In each of 5 rounds a thread keeps one half of its values, sends the other half, and adds what it receives. That
    takes 31 exchanges. A sum of each row by itself takes 160.
    """
    channel = tl.arange(0, W)[None, :]
    for i in tl.static_range(5):
        if i > 0:
            x, y = tl.split(tl.permute(tl.reshape(x, (2, W >> (i + 1), W)), (1, 2, 0)))
        upper = (channel & (W >> (i + 1))) > 0
        other = tl.broadcast_to(channel ^ (W >> (i + 1)), x.shape)
        x = tl.where(upper, y, x) + tl.gather(tl.where(upper, x, y), other, 1)
    return x


@triton.jit(do_not_specialize=['one'])
def _adjoint_kernel(
    grad_ptr,
    u_ptr,
    delta_ptr,
    A_ptr,
    B_ptr,
    C_ptr,
    D_ptr,
    bias_ptr,
    grad_states_ptr,
    kept_ptr,
    grad_u_ptr,
    grad_delta_ptr,
    grad_A_ptr,  # (orders, batch, chunks, D, N)
    grad_D_ptr,  # (orders, batch, chunks, D)
    grad_bias_ptr,
    grad_BC_ptr,  # (orders, batch, L, blocks of channels, B and C, NP)
    grad_strides,
    u_strides,
    delta_strides,
    B_strides,
    C_strides,
    out_strides,
    BC_strides,
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
    """Step through a chunk from its end, start from the gradient of its last state, and write all gradients.

    For each group, first recompute its states from the kept one, then step back.
    """
    NP: tl.constexpr = triton.next_power_of_2(N)
    block, own, sequence, chunk, sample, order, backward, stride, start, end = _program(
        batch, L, width, orders, steps, chunks, D, W
    )
    state, channel, real, within, where, A = _tile(block, order, D, one, A_ptr, N, W)
    grad_ptr, grad_row = _rows(grad_ptr, grad_strides, order, sample, L, backward)
    u_ptr, u_row = _rows(u_ptr, u_strides, order, sample, L, backward)
    delta_ptr, delta_row = _rows(delta_ptr, delta_strides, order, sample, L, backward)
    B_ptr, B_row = _rows(B_ptr, B_strides, order, sample, L, backward)
    C_ptr, C_row = _rows(C_ptr, C_strides, order, sample, L, backward)
    grad_u_ptr, out_row = _rows(grad_u_ptr, out_strides, order, sample, L, backward)
    grad_delta_ptr, out_row = _rows(grad_delta_ptr, out_strides, order, sample, L, backward)
    grad_BC_ptr, BC_row = _rows(grad_BC_ptr + block * 2 * NP, BC_strides, order, sample, L, backward)
    groups = tl.cdiv(end - start, GROUP)
    kept_ptr += (own * tl.cdiv(steps, GROUP) + groups) * N * D + where
    bias, skip = _load(bias_ptr + order * D + channel, real), _load(D_ptr + order * D + channel, real)
    g = tl.load(grad_states_ptr + own * N * D + where, within, 0.0)
    grad_A = tl.zeros(A.shape, tl.float32)
    grad_D, grad_bias = tl.zeros((1, W), tl.float32), tl.zeros((1, W), tl.float32)
    for i in range(groups):
        t = start + (groups - 1 - i) * GROUP
        kept_ptr -= N * D
        h = tl.load(kept_ptr, within, 0.0)
        cell = _cell(t, stride, L)
        cells, states = (), ()
        for j in tl.static_range(GROUP):
            u = _load(u_ptr + cell * u_row + channel, real)
            delta, _ = _load_delta(delta_ptr + cell * delta_row + channel, real & (t + j < end), bias)
            states = states + (h,)
            h = tl.exp2(delta * A) * h + _load(B_ptr + cell * B_row + state, state < N) * (delta * u)
            cells = cells + (cell,)
            cell = _next(cell, stride, L)
        for j in tl.static_range(GROUP - 1, -1, -1):
            cell, before, there = cells[j], states[j], t + j < end
            # loaded again, because registers are scarcer than time
            u = _load(u_ptr + cell * u_row + channel, real)
            grad = _load(grad_ptr + cell * grad_row + channel, real & there)
            delta, slope = _load_delta(delta_ptr + cell * delta_row + channel, real & there, bias)
            B = _load(B_ptr + cell * B_row + state, state < N)
            g += _load(C_ptr + cell * C_row + state, state < N) * grad
            if W == 2 * NP and W == 32:
                sums = _sum_channels(g * (delta * u), h * grad, W)
                tl.store(grad_BC_ptr + cell * BC_row + tl.arange(0, W)[None, :], sums, there)
            else:
                n = tl.arange(0, NP)
                tl.store(grad_BC_ptr + cell * BC_row + n, tl.sum(g * (delta * u), 1), there)
                tl.store(grad_BC_ptr + cell * BC_row + NP + n, tl.sum(h * grad, 1), there)
            grad_input = tl.sum(g * B, 0, keep_dims=True)  # gradient of delta * u
            g *= tl.exp2(delta * A)  # gradient of the previous state
            h = before
            grad_exponent = g * h  # gradient of delta * A
            grad_delta = tl.sum(grad_exponent * A, 0, keep_dims=True) * 0.6931471805599453 + grad_input * u
            grad_delta *= slope
            tl.store(grad_u_ptr + cell * out_row + channel, delta * grad_input + skip * grad, real & there)
            tl.store(grad_delta_ptr + cell * out_row + channel, grad_delta, real & there)
            grad_A += grad_exponent * delta
            grad_D += grad * u
            grad_bias += grad_delta
    tl.store(grad_A_ptr + own * D * N + (channel * N + state) * one, grad_A, within)
    tl.store(grad_D_ptr + own * D + channel, grad_D, real)
    tl.store(grad_bias_ptr + own * D + channel, grad_bias, real)


@triton.jit
def _blocks_kernel(grad_BC_ptr, grad_B_ptr, grad_C_ptr, rows, blocks, N: tl.constexpr, ROWS: tl.constexpr):
    """Add up the gradients of B and C from all blocks of channels, for a tile of positions and states."""
    NP: tl.constexpr = triton.next_power_of_2(N)
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    column = tl.arange(0, 2 * NP)[None, :]
    total = tl.zeros((ROWS, 2 * NP), tl.float32)
    for block in range(blocks):
        total += tl.load(grad_BC_ptr + (row * blocks + block) * 2 * NP + column, row < rows, 0.0)
    tl.store(grad_B_ptr + row * N + column, total, (row < rows) & (column < N))
    tl.store(grad_C_ptr + row * N + column - NP, total, (row < rows) & (column >= NP) & (column < NP + N))


def scan_backward(
    grad: Tensor, states: Tensor, *inputs: Tensor, steps: int, width: int = 1, orders: int = 0
) -> tuple[Tensor, ...]:
    """Gradients of the input tensors of :func:`scan`; ``states`` are the states that it returned."""
    shapes = [x.shape for x in inputs]
    u, delta, A, B, C, D, bias = inputs = _prepare(*inputs)
    (grad,), (number, batch, length, channels), count = _prepare(grad), delta.shape, A.shape[2]
    chunks = states.shape[-3]
    programs, sizes, constants = _layout(delta, count, chunks, steps, width, orders)
    blocks, padded = triton.cdiv(channels, constants['W']), triton.next_power_of_2(count)
    by_chunk = number, batch, chunks
    total, grad_D, grad_bias = (states.new_empty(*by_chunk, channels) for _ in range(3))
    grad_states, grad_A = states.new_empty(*by_chunk, count, channels), states.new_empty(*by_chunk, channels, count)
    kept = states.new_empty(*by_chunk, triton.cdiv(steps, GROUP), count, channels)
    grad_BC = states.new_empty(number, batch, length, blocks, 2, padded)
    grad_u, grad_delta, grad_B, grad_C = (x.new_empty(x.shape) for x in (u, delta, B, C))
    strides, rows = _strides(grad, u, delta, B, C), number * batch * length
    out_strides = _strides(grad_u, grad_BC.flatten(3))
    with torch.cuda.device_of(u):
        _rewalk_kernel[(programs,)](
            grad, u, delta, A, B, C, bias, states, total, grad_states, kept, *strides, *sizes, **constants
        )
        _carry(A, grad_states, total, reverse=True)
        grads = grad_u, grad_delta, grad_A, grad_D, grad_bias, grad_BC
        _adjoint_kernel[(programs,)](
            grad, *inputs, grad_states, kept, *grads, *strides, *out_strides, *sizes, **constants
        )
        _blocks_kernel[(triton.cdiv(rows, ROWS),)](grad_BC, grad_B, grad_C, rows, blocks, N=count, ROWS=ROWS)
    grad_A, grad_D, grad_bias = (x.sum((1, 2)) for x in (grad_A, grad_D, grad_bias))
    grads = grad_u, grad_delta, grad_A, grad_B, grad_C, grad_D, grad_bias
    return tuple(x.view(shape) for x, shape in zip(grads, shapes, strict=True))
