"""The passes of :mod:`.selective_scan` as Triton kernels.

A program steps through one chunk of one sequence and has the states of a block of channels in its registers. ``A`` is
``(N, D)`` and scaled for exp2. States and sums are in single precision.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .selective_scan import LOG2E

BLOCK = 32  # channels of a program, one for each thread of a warp
HISTORY = 2**27  # values of the history: states at all positions that are in memory at the same time


@triton.jit
def _softplus(x):
    """``log(1 + exp(x))``, corrected for the rounding of the sum because ``exp(x)`` may be small beside 1."""
    e = tl.exp(-tl.abs(x))
    total = 1 + e
    return tl.maximum(x, 0.0) + tl.log(total) + (e - (total - 1)) / total


@triton.jit
def _load(ptr, row, column, columns):
    """Load columns of a row; columns outside are zero."""
    return tl.load(ptr + row * columns + column, column < columns, 0.0).to(tl.float32)


@triton.jit
def _tile(D, N, NP: tl.constexpr, W: tl.constexpr):
    """State and channel indices, their offsets in a matrix ``(N, D)``, and a mask of those inside it."""
    state, channel = tl.arange(0, NP), tl.program_id(1) * W + tl.arange(0, W)
    where = state[:, None] * D + channel[None, :]
    return state, channel, where, (state < N)[:, None] & (channel < D)[None, :]


@triton.jit
def _positions(own, L, steps, chunks):
    """The first row of a chunk and the row after its last."""
    start = own % chunks * steps
    first = own // chunks * L
    return first + start, first + tl.minimum(start + steps, L)


@triton.jit
def _scan_kernel(
    u_ptr,
    delta_ptr,
    A_ptr,
    B_ptr,
    C_ptr,
    D_ptr,
    bias_ptr,
    states_ptr,  # (batch, chunks, N, D)
    total_ptr,  # (batch, chunks, D)
    y_ptr,
    history_ptr,  # (chunks, steps, N, D)
    first,  # first chunk in history
    L,
    steps,
    chunks,
    D,
    N,
    NP: tl.constexpr,
    W: tl.constexpr,
):
    """Step through a chunk.

    With ``total_ptr``, start from zero, and write the last state as the next chunk's first and the sum of ``delta``.
    Without, start from the chunk's first state, and write ``y``, or ``history``: the states before all steps.
    """
    state, channel, where, within = _tile(D, N, NP, W)
    own = first + tl.program_id(0).to(tl.int64)
    start, end = _positions(own, L, steps, chunks)
    A = tl.load(A_ptr + where, within, 0.0)
    bias = _load(bias_ptr, 0, channel, D)
    total = tl.zeros((W,), tl.float32)
    if total_ptr is not None:
        h = tl.zeros((NP, W), tl.float32)
    else:
        h = tl.load(states_ptr + own * N * D + where, within, 0.0)
    for row in range(start, end):
        if history_ptr is not None:
            tl.store(history_ptr + ((own - first) * steps + row - start) * N * D + where, h, within)
        u, delta = _load(u_ptr, row, channel, D), _softplus(_load(delta_ptr, row, channel, D) + bias)
        h = tl.exp2(delta[None, :] * A) * h + _load(B_ptr, row, state, N)[:, None] * (delta * u)[None, :]
        total += delta
        if y_ptr is not None:
            y = tl.sum(_load(C_ptr, row, state, N)[:, None] * h, 0) + _load(D_ptr, 0, channel, D) * u
            tl.store(y_ptr + row * D + channel, y, channel < D)
    if total_ptr is not None:
        tl.store(total_ptr + own * D + channel, total, channel < D)
        if (own + 1) % chunks > 0:
            tl.store(states_ptr + (own + 1) * N * D + where, h, within)


@triton.jit
def _carry_kernel(A_ptr, states_ptr, total_ptr, chunks, D, N, REVERSE: tl.constexpr, NP: tl.constexpr, W: tl.constexpr):
    """Pass over the chunks of a sequence, and carry each chunk's first state through to the next one's."""
    _, channel, where, within = _tile(D, N, NP, W)
    A = tl.load(A_ptr + where, within, 0.0)
    h = tl.zeros((NP, W), tl.float32)
    for i in range(1, chunks):
        if REVERSE:
            own = (tl.program_id(0) + 1).to(tl.int64) * chunks - 1 - i
            before = own + 1
        else:
            own = tl.program_id(0).to(tl.int64) * chunks + i
            before = own - 1
        ptr = states_ptr + own * N * D + where
        h = tl.exp2(_load(total_ptr, before, channel, D)[None, :] * A) * h + tl.load(ptr, within, 0.0)
        tl.store(ptr, h, within)


@triton.jit
def _adjoint_kernel(
    grad_ptr,
    u_ptr,
    delta_ptr,
    A_ptr,
    B_ptr,
    C_ptr,
    D_ptr,
    bias_ptr,
    grad_states_ptr,  # gradients of the chunks' last states, (batch, chunks, N, D)
    total_ptr,
    history_ptr,
    grad_u_ptr,
    grad_delta_ptr,
    grad_A_ptr,  # (batch, chunks, N, D)
    grad_D_ptr,  # (batch, chunks, D)
    grad_bias_ptr,
    grad_B_ptr,  # (batch, L, blocks of channels, N)
    grad_C_ptr,
    first,
    L,
    steps,
    chunks,
    D,
    N,
    NP: tl.constexpr,
    W: tl.constexpr,
):
    """Step through a chunk from its end.

    With ``total_ptr``, start from zero, and write the gradient of the first state as that of the previous chunk's last
    state, and the sum of ``delta``. Without, start from the gradient of the last state, and write all gradients.
    """
    state, channel, where, within = _tile(D, N, NP, W)
    own = first + tl.program_id(0).to(tl.int64)
    start, end = _positions(own, L, steps, chunks)
    A = tl.load(A_ptr + where, within, 0.0)
    bias, skip = _load(bias_ptr, 0, channel, D), _load(D_ptr, 0, channel, D)
    total, grad_D, grad_bias = tl.zeros((W,), tl.float32), tl.zeros((W,), tl.float32), tl.zeros((W,), tl.float32)
    g, grad_A = tl.zeros((NP, W), tl.float32), tl.zeros((NP, W), tl.float32)
    if total_ptr is None:
        g = tl.load(grad_states_ptr + own * N * D + where, within, 0.0)
    for i in range(start, end):
        row = start + end - 1 - i
        grad, raw = _load(grad_ptr, row, channel, D), _load(delta_ptr, row, channel, D) + bias
        delta = _softplus(raw)
        decay = tl.exp2(delta[None, :] * A)
        g += _load(C_ptr, row, state, N)[:, None] * grad[None, :]
        if total_ptr is not None:
            total += delta
            g *= decay
        else:
            u, B = _load(u_ptr, row, channel, D), _load(B_ptr, row, state, N)
            before = tl.load(history_ptr + ((own - first) * steps + row - start) * N * D + where, within, 0.0)
            h = decay * before + B[:, None] * (delta * u)[None, :]
            offset = (row * tl.num_programs(1) + tl.program_id(1)) * N + state
            tl.store(grad_C_ptr + offset, tl.sum(h * grad[None, :], 1), state < N)
            tl.store(grad_B_ptr + offset, tl.sum(g * (delta * u)[None, :], 1), state < N)
            grad_input = tl.sum(g * B[:, None], 0)  # gradient of delta * u
            g *= decay  # gradient of the previous state
            grad_exponent = g * before  # gradient of delta * A
            grad_delta = (tl.sum(grad_exponent * A, 0) * 0.6931471805599453 + grad_input * u) * tl.sigmoid(raw)
            tl.store(grad_u_ptr + row * D + channel, delta * grad_input + skip * grad, channel < D)
            tl.store(grad_delta_ptr + row * D + channel, grad_delta, channel < D)
            grad_A += grad_exponent * delta[None, :]
            grad_D += grad * u
            grad_bias += grad_delta
    if total_ptr is not None:
        tl.store(total_ptr + own * D + channel, total, channel < D)
        if own % chunks > 0:
            tl.store(grad_states_ptr + (own - 1) * N * D + where, g, within)
    else:
        tl.store(grad_A_ptr + own * N * D + where, grad_A, within)
        tl.store(grad_D_ptr + own * D + channel, grad_D, channel < D)
        tl.store(grad_bias_ptr + own * D + channel, grad_bias, channel < D)


def _prepare(chunks: int, u: Tensor, delta: Tensor, A: Tensor, *others: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    """Convert inputs for the kernels, and allocate the chunks' states (zeros) and their sums of ``delta``."""
    A = A.float().T * LOG2E
    inputs = [tensor.contiguous() for tensor in (u, delta, A, *others)]
    return inputs, A.new_zeros(len(u), chunks, *A.shape), A.new_empty(len(u), chunks, A.shape[1])


def _launch(u: Tensor, states: Tensor, steps: int) -> tuple[int, tuple[int, ...], dict]:
    """Number of channel blocks, sizes and constants for the kernels."""
    _, chunks, count, channels = states.shape
    constants = dict(NP=triton.next_power_of_2(count), W=BLOCK, num_warps=1)
    return triton.cdiv(channels, BLOCK), (u.shape[1], steps, chunks, channels, count), constants


def scan(*inputs: Tensor, chunks: int, steps: int) -> tuple[Tensor, Tensor]:
    """Scan the input tensors of :func:`.selective_scan.scan`; return the output and the chunks' first states."""
    inputs, states, total = _prepare(chunks, *inputs)
    u, _, A, *_ = inputs
    y, (blocks, sizes, constants) = torch.empty_like(u, dtype=torch.float), _launch(u, states, steps)
    grid = len(u) * chunks, blocks
    with torch.cuda.device_of(u):  # Triton launches on the current device
        _scan_kernel[grid](*inputs, states, total, None, None, 0, *sizes, **constants)
        _carry_kernel[(len(u), blocks)](A, states, total, *sizes[2:], REVERSE=False, **constants)
        _scan_kernel[grid](*inputs, states, None, y, None, 0, *sizes, **constants)
    return y, states


def scan_backward(grad: Tensor, states: Tensor, *inputs: Tensor, steps: int) -> tuple[Tensor, ...]:
    """Gradients of the input tensors of :func:`scan`; ``states`` are the states that it returned."""
    inputs, grad_states, total = _prepare(states.shape[1], *inputs)
    (u, delta, A, *_), (blocks, sizes, constants) = inputs, _launch(inputs[0], states, steps)
    (batch, length, channels), programs, count = u.shape, total[..., 0].numel(), len(A)
    each = max(HISTORY // (steps * count * channels), 1)  # number of chunks with their history in memory
    history = states.new_empty(min(each, programs), steps, count, channels)
    by_chunk = [torch.empty_like(x) for x in (states, total, total)]  # gradients of A, D and the bias
    by_block = [states.new_empty(batch, length, blocks, count) for _ in range(2)]  # gradients of B and C
    grad_u, grad_delta = torch.empty_like(u), torch.empty_like(delta)
    grads = grad_u, grad_delta, *by_chunk, *by_block
    inputs = grad, *inputs
    with torch.cuda.device_of(u):
        _adjoint_kernel[(programs, blocks)](
            *inputs, grad_states, total, None, *[None] * len(grads), 0, *sizes, **constants
        )
        _carry_kernel[(batch, blocks)](A, grad_states, total, *sizes[2:], REVERSE=True, **constants)
        for first in range(0, programs, each):
            grid = min(each, programs - first), blocks
            _scan_kernel[grid](*inputs[1:], states, None, None, history, first, *sizes, **constants)
            _adjoint_kernel[grid](*inputs, grad_states, None, history, *grads, first, *sizes, **constants)
    grad_A, grad_D, grad_bias = (sums.sum((0, 1)) for sums in by_chunk)
    grad_B, grad_C = (sums.sum(2) for sums in by_block)
    return grad_u, grad_delta, grad_A.T, grad_B, grad_C, grad_D, grad_bias
