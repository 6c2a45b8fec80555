"""The selective scan of S6, the recurrence inside Mamba (arXiv 2312.00752, section 3.2).

For each channel ``d`` and state ``n``, along a sequence, from ``h_0 = 0``::

    delta_t = softplus(delta_t + delta_bias)
    h_t[n] = exp(delta_t * A[n]) * h_(t-1)[n] + delta_t * B_t[n] * u_t
    y_t = sum over n of C_t[n] * h_t[n] + D * u_t

The definition takes ``L`` steps. Here a sequence takes about ``3 * sqrt(L)``, because it is cut into ``sqrt(L)``
chunks of ``sqrt(L)`` positions. First all chunks are scanned at once, each from a state of zero. Then a pass over the
chunks finds the true first state of each one. Last, all chunks are scanned again from these states. The backward pass
does the same from the end of the sequence. It recomputes all states from the chunks' first states, the only ones that
are saved.
Nothing is divided by products of decays, because these may underflow to 0.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from ..errors import UserError, did_you_mean
from .scan_orders import Lines

IMPLEMENTATIONS = dict(
    auto="'triton' on CUDA, 'chunked' elsewhere",
    reference='step by step, as defined, with gradients from autograd',
    chunked='all chunks at once, on any device',
    triton="'chunked' as Triton kernels, on CUDA",
)
TRITON_INSTALLED = find_spec('triton') is not None
MOST_ORDERS = 31  # that one launch scans: the code of each has two bits of an integer of 64
LOG2E = 1 / math.log(2)  # exp2 is several times as fast as exp


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    implementation: str = 'auto',
) -> Tensor:
    """Compute the selective scan; all implementations give the same result.

    Args:
        u: Input ``(batch, L, D)``. All tensors may have any floating dtype.
        delta: Step sizes before bias and softplus, ``(batch, L, D)``.
        A: Negative rates of decay, ``(D, N)``.
        B: Input weights of the states, ``(batch, L, N)``.
        C: Output weights of the states, ``(batch, L, N)``.
        D: Weights of the skip connection, ``(D,)``; ``None`` for no skip connection.
        delta_bias: Bias of the step sizes, ``(D,)``; ``None`` for zeros.
        implementation: A key of ``IMPLEMENTATIONS``. For double inputs, ``'triton'`` computes as ``'chunked'`` does.

    Returns:
        ``(batch, L, D)`` in double precision for double inputs and in single precision otherwise, even under autocast,
        because sums may exceed the range of half precision.

    Raises:
        UserError: If the implementation is unknown or does not run on the device.
        ValueError: If the shapes do not fit each other.
    """
    (batch, length, channels), (_, states) = u.shape, A.shape
    by_state = batch, length, states
    fitting = dict(delta=(delta, u.shape), A=(A, (channels, states)), B=(B, by_state), C=(C, by_state))
    for name, (tensor, shape) in fitting.items():
        if tensor.shape != shape:  # it would be broadcast, or read beyond its end
            raise ValueError(
                f'selective_scan: {name} is {tuple(tensor.shape)} and must be {tuple(shape)} to fit u and A'
            )
    implementation = choose(u, A, implementation)
    D, delta_bias = (A.new_zeros(len(A)) if vector is None else vector for vector in (D, delta_bias))
    inputs = u, delta, A, B, C, D, delta_bias
    if implementation == 'reference':
        return _reference(*inputs)
    return scan(*inputs, implementation == 'triton', _needs_grad(inputs))[0]


def scan_lines(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    width: int,
    orders: Sequence[Lines],
) -> Tensor:
    """Scan maps in ``K`` scan orders at once, in Triton kernels that read and write the cells where they are.

    Args:
        u: Cells of the maps row by row, ``(batch, L, D)``.
        delta: Step sizes of each cell before bias and softplus, ``(K, batch, L, D)``.
        A: Negative rates of decay, ``(K, D, N)``.
        B: Input weights of the states, ``(K, batch, L, N)``.
        C: Output weights of the states, ``(K, batch, L, N)``.
        D: Weights of the skip connection, ``(K, D)``.
        delta_bias: Bias of the step sizes, ``(K, D)``.
        width: Cells in a row of a map.
        orders: ``K`` orders that have a :attr:`~.scan_orders.Order.code`, at most ``MOST_ORDERS``.

    Returns:
        The output of each order at each cell, ``(K, batch, L, D)`` in single precision.
    """
    codes = sum(order.code << 2 * k for k, order in enumerate(orders))
    inputs = u.expand(delta.shape), delta, A, B, C, D, delta_bias
    return scan(*inputs, True, _needs_grad(inputs), width, codes)[0]


def choose(u: Tensor, A: Tensor, implementation: str) -> str:
    """The implementation that computes a scan: never ``'auto'``, and ``'chunked'`` where no Triton kernel does.

    Triton's kernels compute in single precision, and count the values of a sequence in 32 bits, with room for rows that
    are several times as wide as the channels. They are made for up to 16 states; with more, registers spill to memory.

    Raises:
        UserError: If the implementation is unknown or does not run on the device.
    """
    check_implementation(implementation)
    # meta tensors hold no data to compute, and Triton's interpreter runs on any device
    if implementation == 'triton' and u.device.type not in ('cuda', 'meta') and 'TRITON_INTERPRET' not in os.environ:
        raise UserError(
            f"selective_scan='triton' needs CUDA, and the input is on {u.device}; selective_scan='auto' fits any device"
        )
    if implementation == 'auto':
        implementation = 'triton' if u.device.type == 'cuda' and TRITON_INSTALLED else 'chunked'
    length, channels = math.prod(u.shape[1:-1]), u.shape[-1]
    widest = 4 * max(channels, 128) * math.ceil(A.shape[-1] / 16)
    if implementation == 'triton' and (u.dtype == torch.double or length * widest >= 2**31):
        implementation = 'chunked'
    return implementation


def _needs_grad(inputs: Sequence[Tensor]) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)


def check_implementation(implementation: str) -> None:
    """Raise a :class:`UserError` unless ``implementation`` is a key of ``IMPLEMENTATIONS``."""
    if not isinstance(implementation, str) or implementation not in IMPLEMENTATIONS:
        guess = did_you_mean(str(implementation), IMPLEMENTATIONS)
        raise UserError(f'selective_scan={implementation!r} is unknown{guess}; known: {", ".join(IMPLEMENTATIONS)}')


def _reference(u: Tensor, *inputs: Tensor) -> Tensor:
    dtype = torch.promote_types(u.dtype, torch.float)
    wide, delta, A, B, C, D, delta_bias = (tensor.to(dtype) for tensor in (u, *inputs))
    delta = F.softplus(delta + delta_bias)
    h, ys = wide.new_zeros(len(u), *A.shape), []
    for u_t, delta_t, B_t, C_t in zip(*map(_positions, (wide, delta, B, C)), strict=True):
        h = torch.exp(delta_t[..., None] * A) * h + (delta_t * u_t)[..., None] * B_t[:, None]
        ys.append((h * C_t[:, None]).sum(-1))
    return torch.stack(ys, 1) + D * wide


def _positions(tensor: Tensor) -> Iterator[Tensor]:
    """All positions, one after the other.

    The tensor is split first, because the backward pass of ``unbind`` takes time quadratic in the number of its views.
    """
    return (position for segment in tensor.split(256, 1) for position in segment.unbind(1))


def chunks_and_steps(length: int) -> tuple[int, int]:
    """Number of chunks of a sequence, and number of positions in each; the last chunk may have fewer."""
    steps = torch.sym_int(torch.sym_sqrt(length - 1)) + 1
    return -(-length // steps), steps


@torch.library.custom_op('mambaout::selective_scan', mutates_args=())
def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    triton: bool,
    save: bool,
    width: int = 1,
    orders: int = 0,
) -> tuple[Tensor, Tensor]:
    """The scan and, if ``save``, the first states of all chunks, ``(batch, chunks, N, D)``.

    With ``triton``, all tensors may have ``K`` scan orders as their first dimension: ``orders`` has two bits for the
    code of each one, and ``width`` is the number of cells in a row of the maps.
    """
    inputs, (chunks, steps) = (u, delta, A, B, C, D, delta_bias), chunks_and_steps(u.shape[-2])
    with torch.autocast(u.device.type, enabled=False):
        if triton:
            from . import selective_scan_triton as kernels  # Triton is installed only where CUDA may be

            y, states = kernels.scan(*inputs, chunks=chunks, steps=steps, width=width, orders=orders)
        else:
            wide_u, y, A, B, C, D = _prepare(*inputs)  # y holds delta until it is overwritten
            states = y.new_zeros(len(u), chunks, *A.shape)
            for block in _channel_blocks(states):
                _scan(*(x[..., block] for x in (wide_u, y, A, D, states)), B, C, steps)
    return y, states if save else states.new_empty(0)


@torch.library.custom_op('mambaout::selective_scan_backward', mutates_args=())
def scan_backward(
    grad: Tensor,
    states: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    delta_bias: Tensor,
    triton: bool,
    width: int = 1,
    orders: int = 0,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the seven input tensors of :func:`scan`, in its order."""
    inputs, (_, steps) = (u, delta, A, B, C, D, delta_bias), chunks_and_steps(u.shape[-2])
    with torch.autocast(u.device.type, enabled=False):
        if triton:
            from . import selective_scan_adjoint_triton as kernels

            grads = kernels.scan_backward(grad, states, *inputs, steps=steps, width=width, orders=orders)
        else:
            u, delta, A, B, C, D = _prepare(*inputs)
            grad, (grad_u, grad_A, grad_B, grad_C, grad_D) = grad.to(u.dtype), map(torch.zeros_like, (u, A, B, C, D))
            grad_bias, blocks = torch.zeros_like(D), _channel_blocks(states)
            history = states.new_empty(steps + 1, *states[..., blocks[0]].shape)
            for block in blocks:
                channels = (x[..., block] for x in (grad.contiguous(), states, u, delta, A, D, grad_u))
                sums = _scan_backward(*channels, B, C, grad_B, grad_C, history)
                grad_A[:, block], grad_D[block], grad_bias[block] = sums
            grads = grad_u, delta, grad_A.T, grad_B, grad_C, grad_D, grad_bias  # delta now holds its own gradient
    return tuple(grad.to(x.dtype).contiguous() for grad, x in zip(grads, inputs, strict=True))


@scan.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    bias: Tensor,
    triton: bool,
    save: bool,
    *_: int,
) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(u.dtype, torch.float)
    states = *u.shape[:-2], chunks_and_steps(u.shape[-2])[0], *A.shape[:-3:-1]
    return u.new_empty(u.shape, dtype=dtype), u.new_empty(states if save else 0, dtype=dtype)


@scan_backward.register_fake
def _(grad: Tensor, states: Tensor, *args: object) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in args[:7])


def _setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple) -> None:
    tensors, (ctx.triton, _, ctx.width, ctx.orders) = inputs[:7], inputs[7:]
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *tensors)


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *scan_backward(grad, *ctx.saved_tensors, ctx.triton, ctx.width, ctx.orders), *[None] * 4


scan.register_autograd(_backward, setup_context=_setup_context)


def operations(u: Sequence[int], A: Sequence[int]) -> int:
    """Number of operations of a scan of inputs of these shapes, by the formula behind VMamba's published figures.

    It counts 9 per position, channel and state, and 1 per position and channel for the skip connection.
    """
    return math.prod(u) * (9 * A[-1] + 1)


@register_flop_formula(torch.ops.mambaout.selective_scan)
def _(u: tuple, delta: tuple, A: tuple, *args: object, **_: object) -> int:
    return operations(u, A)


@register_flop_formula(torch.ops.mambaout.selective_scan_backward)
def _(grad: tuple, states: tuple, u: tuple, delta: tuple, A: tuple, *args: object, **_: object) -> int:
    return 2 * operations(u, A)  # like the backward pass of a matrix product


# --- all chunks at once, in PyTorch; from here on A is (N, D), so that channels are last, and scaled for exp2


CACHE_VALUES = 2**18  # of the states that take a step together; they then stay in a CPU's cache


def _prepare(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Convert inputs to the dtype of the states, and apply bias and softplus to a copy of ``delta``."""
    dtype = torch.promote_types(u.dtype, torch.float)
    delta = delta.to(dtype).contiguous() + delta_bias.to(dtype)
    A = (A.to(dtype).T * LOG2E).contiguous()
    return u.to(dtype).contiguous(), F.softplus(delta, out=delta), A, B.to(dtype), C.to(dtype), D.to(dtype)


def _channel_blocks(states: Tensor) -> list[slice]:
    """The blocks of channels that are scanned one after the other, each at least some cache lines wide."""
    width = max(CACHE_VALUES // max(states[..., 0].numel(), 1), 64)
    return [slice(start, start + width) for start in range(0, states.shape[-1], width)]


def _walk(history: Sequence[Tensor], u: Tensor, delta: Tensor, A: Tensor, B: Tensor) -> Iterator:
    """Step through all chunks at once; step ``t`` reads the states ``history[t]`` and writes ``history[t + 1]``.

    Yields:
        For each step the positions it takes (one per chunk, without a shorter last chunk), their decays and states.
    """
    steps = len(history) - 1
    for t in range(steps):
        step = slice(t, None, steps)
        delta_t = delta[:, step, None]
        old, new = (h[:, : delta_t.shape[1]] for h in history[t : t + 2])
        decay = (delta_t * A).exp2_()
        torch.addcmul(B[:, step, :, None] * (delta_t * u[:, step, None]), decay, old, out=new)
        yield step, decay, new


def _scan(u: Tensor, y: Tensor, A: Tensor, D: Tensor, states: Tensor, B: Tensor, C: Tensor, steps: int) -> None:
    """Scan some channels: replace ``delta`` in ``y`` by the output and zeros in ``states`` by the first states."""
    h, last = torch.zeros_like(states), states.shape[1] - 1
    for _ in _walk([h] * (steps + 1), u, y, A, B):
        pass
    decay = y[:, : last * steps].unflatten(1, (last, steps)).sum(2).unsqueeze(2).mul(A).exp2_()
    for k in range(last):
        torch.addcmul(h[:, k], decay[:, k], states[:, k], out=states[:, k + 1])
    for step, _, h_t in _walk([h.copy_(states)] * (steps + 1), u, y, A, B):
        torch.addcmul(torch.einsum('bkn,bknd->bkd', C[:, step], h_t), u[:, step], D, out=y[:, step])


def _scan_backward(
    grad: Tensor,
    states: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    D: Tensor,
    grad_u: Tensor,
    B: Tensor,
    C: Tensor,
    grad_B: Tensor,
    grad_C: Tensor,
    history: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of ``A``, ``D`` and the bias for some channels.

    This also writes ``grad_u``, replaces ``delta`` by its gradient before bias and softplus, and adds to ``grad_B`` and
    ``grad_C``. ``history`` is memory for the states at all positions.
    """
    history, last = history[..., : len(D)], states.shape[1] - 1
    steps = len(history) - 1
    # the gradient of each chunk's first state: first through the chunk alone, then through all later chunks too
    g, decay = torch.zeros_like(states), torch.ones_like(states)
    history[0] = states
    for step, decay_t, h in _walk(history, u, delta, A, B):
        grad_t, n = grad[:, step], h.shape[1]
        grad_C[:, step] += torch.einsum('bkd,bknd->bkn', grad_t, h)
        decay = decay[:, :n] * decay_t
        g[:, :n].addcmul_(decay, C[:, step, :, None] * grad_t[:, :, None])
    for k in range(last - 1, 0, -1):
        g[:, k].addcmul_(decay[:, k], g[:, k + 1])
    g = torch.cat((g[:, 1:], torch.zeros_like(g[:, :1])), 1)  # of each chunk's last state

    rate = A / LOG2E
    grad_A, grad_D, grad_bias = torch.zeros_like(g), torch.zeros_like(g[:, :, 0]), torch.zeros_like(g[:, :, 0])
    for t in reversed(range(steps)):
        step = slice(t, None, steps)
        u_t, delta_t, grad_t = u[:, step], delta[:, step], grad[:, step]
        n = u_t.shape[1]
        g_t = g[:, :n].addcmul_(C[:, step, :, None], grad_t[:, :, None])
        grad_B[:, step] += torch.einsum('bkd,bknd->bkn', delta_t * u_t, g_t)
        grad_input = torch.einsum('bkn,bknd->bkd', B[:, step], g_t)  # gradient of delta_t * u_t
        torch.addcmul(delta_t * grad_input, grad_t, D, out=grad_u[:, step])
        g_t *= (delta_t[:, :, None] * A).exp2_()  # gradient of the previous state
        grad_exponent = g_t * history[t][:, :n]  # gradient of delta_t * A
        grad_A[:, :n].addcmul_(grad_exponent, delta_t[:, :, None])
        grad_D[:, :n].addcmul_(grad_t, u_t)
        grad_delta = grad_exponent.mul_(rate).sum(2).addcmul_(grad_input, u_t)
        grad_delta *= -torch.expm1(-delta_t)  # the slope of softplus
        grad_bias[:, :n] += grad_delta
        delta[:, step] = grad_delta
    return grad_A.sum((0, 1)), grad_D.sum((0, 1)), grad_bias.sum((0, 1))
