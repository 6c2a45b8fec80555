"""The selective scan of S6, the recurrence inside Mamba (arXiv 2312.00752, section 3.2).

For each channel ``d`` and state ``n``, along a sequence, from ``h_0 = 0``::

    delta_t = softplus(delta_t + delta_bias)
    h_t[n] = exp(delta_t * A[n]) * h_(t-1)[n] + delta_t * B_t[n] * u_t
    y_t = sum over n of C_t[n] * h_t[n] + D * u_t

Instead of ``L`` steps one after the other, about ``3 * sqrt(L)`` are taken: a sequence is cut into ``sqrt(L)`` chunks
of ``sqrt(L)`` positions, and all chunks walk at once, from zero; then a walk over the chunks finds the state that each
one starts from; then all walk again, from there. The backward pass does likewise from the end, with the states computed
again from those that chunks start from, which alone are kept. Decays are multiplied, never divided by.
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

FORMS = dict(
    auto="'triton' on CUDA, 'chunked' elsewhere",
    reference='step by step, with gradients by autograd: the definition',
    chunked='all chunks at once, on any device',
    triton="'chunked' as Triton kernels, on CUDA",
)
TRITON = find_spec('triton') is not None
LOG2E = 1 / math.log(2)  # exp2 is several times as fast as exp


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    form: str = 'auto',
) -> Tensor:
    """The scan, computed in single precision, of double inputs in double; under autocast, too.

    Args:
        u: Input ``(batch, L, D)``, of any floating dtype, as are all others.
        delta: Step sizes before bias and softplus, ``(batch, L, D)``.
        A: Negative, ``(D, N)``.
        B: What of the input enters the states, ``(batch, L, N)``.
        C: What of the states leaves, ``(batch, L, N)``.
        D: Weights of the skip, ``(D,)``; no skip where ``None``.
        delta_bias: ``(D,)``; zeros where ``None``.
        form: One of ``FORMS``, which are the same function. In double precision, ``'triton'`` is ``'chunked'``.

    Returns:
        ``(batch, L, D)``, in single precision, of double inputs in double: what is summed may leave half's range.

    Raises:
        UserError: If there is no such form, or not on this device.
        ValueError: If the shapes do not fit each other.
    """
    check_form(form)
    (batch, length, channels), (_, states) = u.shape, A.shape
    by_state = batch, length, states
    fitting = dict(delta=(delta, u.shape), A=(A, (channels, states)), B=(B, by_state), C=(C, by_state))
    for name, (tensor, shape) in fitting.items():
        if tensor.shape != shape:  # it would be broadcast, or read beyond its end
            raise ValueError(f'selective_scan: {name} is {tuple(tensor.shape)} and must be {tuple(shape)}, by u and A')
    # meta tensors hold no data to compute, and Triton's interpreter takes any device
    if form == 'triton' and u.device.type not in ('cuda', 'meta') and 'TRITON_INTERPRET' not in os.environ:
        raise UserError(f"selective_scan: form='triton' needs CUDA, and u is on {u.device}: 'auto' chooses by device")
    D, delta_bias = (A.new_zeros(len(A)) if vector is None else vector for vector in (D, delta_bias))
    inputs = u, delta, A, B, C, D, delta_bias
    if form == 'reference':
        return _reference(*inputs)
    if form == 'auto':
        form = 'triton' if u.device.type == 'cuda' and TRITON else 'chunked'
    triton = form == 'triton' and u.dtype != torch.double  # its kernels compute in single precision
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    return scan(*inputs, triton, keep)[0]


def check_form(form: str) -> None:
    """Refuse what is none of ``FORMS``."""
    if form not in list(FORMS):  # which compares, and so answers what has no hash
        guess = did_you_mean(str(form), FORMS)
        raise UserError(f'selective_scan: unknown form={form!r}{guess}; known: {", ".join(FORMS)}')


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
    """One after the other; cut in parts before, since autograd's time goes with the square of what is cut at once."""
    return (position for part in tensor.split(256, 1) for position in part.unbind(1))


def _chunks(length: int) -> tuple[int, int]:
    """Chunks of a sequence, and the positions in each of them but the last, which may have fewer."""
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
    keep: bool,
) -> tuple[Tensor, Tensor]:
    """The scan; and where ``keep``, the states that chunks start from, ``(batch, chunks, N, D)``."""
    inputs, (chunks, steps) = (u, delta, A, B, C, D, delta_bias), _chunks(u.shape[1])
    with torch.autocast(u.device.type, enabled=False):
        if triton:
            from . import selective_scan_triton as kernels  # Triton is there only where CUDA may be

            y, states = kernels.scan(*inputs, chunks=chunks, steps=steps)
        else:
            wide_u, y, A, B, C, D = _prepare(*inputs)  # y is delta, until it is overwritten
            states = y.new_zeros(len(u), chunks, *A.shape)
            for part in _parts(states):
                _scan(*(x[..., part] for x in (wide_u, y, A, D, states)), B, C, steps)
    return y, states if keep else states.new_empty(0)


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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the seven tensors that :func:`scan` takes, in its order."""
    inputs, (_, steps) = (u, delta, A, B, C, D, delta_bias), _chunks(u.shape[1])
    with torch.autocast(u.device.type, enabled=False):
        if triton:
            from . import selective_scan_triton as kernels

            grads = kernels.scan_backward(grad, states, *inputs, steps=steps)
        else:
            u, delta, A, B, C, D = _prepare(*inputs)
            grad, (grad_u, grad_A, grad_B, grad_C, grad_D) = grad.to(u.dtype), map(torch.zeros_like, (u, A, B, C, D))
            grad_bias, parts = torch.zeros_like(D), _parts(states)
            history = states.new_empty(steps + 1, *states[..., parts[0]].shape)
            for part in parts:
                channels = (x[..., part] for x in (grad, states, u, delta, A, D, grad_u))
                sums = _scan_backward(*channels, B, C, grad_B, grad_C, history)
                grad_A[:, part], grad_D[part], grad_bias[part] = sums
            grads = grad_u, delta, grad_A.T, grad_B, grad_C, grad_D, grad_bias  # delta's was written over delta
    return tuple(grad.to(x.dtype).contiguous() for grad, x in zip(grads, inputs, strict=True))


@scan.register_fake
def _(u: Tensor, delta: Tensor, A: Tensor, *args: object) -> tuple[Tensor, Tensor]:
    dtype, keep = torch.promote_types(u.dtype, torch.float), args[-1]
    kept = len(u), _chunks(u.shape[1])[0], *A.T.shape
    return u.new_empty(u.shape, dtype=dtype), u.new_empty(kept if keep else 0, dtype=dtype)


@scan_backward.register_fake
def _(grad: Tensor, states: Tensor, *args: object) -> tuple[Tensor, ...]:
    return tuple(tensor.new_empty(tensor.shape) for tensor in args[:-1])


def _setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple) -> None:
    *tensors, ctx.triton, _ = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(output[1], *tensors)


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *scan_backward(grad.contiguous(), *ctx.saved_tensors, ctx.triton), None, None


scan.register_autograd(_backward, setup_context=_setup_context)


def operations(u: Sequence[int], A: Sequence[int]) -> int:
    """What a scan of these shapes counts as, by the formula behind the figures that VMamba publishes.

    9 for each position, channel and state, and 1 for each position and channel: the skip.
    """
    return math.prod(u) * (9 * A[1] + 1)


@register_flop_formula(torch.ops.mambaout.selective_scan)
def _(u: tuple, delta: tuple, A: tuple, *args: object, **_: object) -> int:
    return operations(u, A)


@register_flop_formula(torch.ops.mambaout.selective_scan_backward)
def _(grad: tuple, states: tuple, u: tuple, delta: tuple, A: tuple, *args: object, **_: object) -> int:
    return 2 * operations(u, A)  # as of a product


# --- all chunks at once, in PyTorch; A is (N, D) from here on, so that channels are last, and for exp2


PART = 2**18  # values in the states that take a step together: they stay in a CPU's cache


def _prepare(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, delta_bias: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """All in the dtype of the states, and ``delta`` behind its softplus, in memory of its own."""
    dtype = torch.promote_types(u.dtype, torch.float)
    delta = delta.to(dtype).contiguous() + delta_bias.to(dtype)
    A = (A.to(dtype).T * LOG2E).contiguous()
    return u.to(dtype).contiguous(), F.softplus(delta, out=delta), A, B.to(dtype), C.to(dtype), D.to(dtype)


def _parts(states: Tensor) -> list[slice]:
    """The channels that are taken together: whole cache lines of them, however many chunks there are."""
    width = max(PART // max(states[..., 0].numel(), 1), 64)
    return [slice(start, start + width) for start in range(0, states.shape[-1], width)]


def _walk(history: Sequence[Tensor], u: Tensor, delta: Tensor, A: Tensor, B: Tensor) -> Iterator:
    """Walk through all chunks at once; step ``t`` reads the states ``history[t]`` and writes ``history[t + 1]``.

    Yields:
        For each step its positions, one in each chunk that has so many, their decays and their states.
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
    """The scan of some channels: writes ``y``, which is ``delta`` before, and ``states``, which are zero before."""
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
    """Gradients of ``A``, ``D`` and the bias for some channels.

    Writes ``grad_u``, and the gradient of ``delta`` before bias and softplus over ``delta``; adds to ``grad_B`` and
    ``grad_C``. ``history`` is memory for the states at all positions.
    """
    history, last = history[..., : len(D)], states.shape[1] - 1
    steps = len(history) - 1
    # each chunk's part in the gradient of the state that it starts from, then the whole
    g, decay = torch.zeros_like(states), torch.ones_like(states)
    history[0] = states
    for step, decay_t, h in _walk(history, u, delta, A, B):
        grad_t, n = grad[:, step], h.shape[1]
        grad_C[:, step] += torch.einsum('bkd,bknd->bkn', grad_t, h)
        decay = decay[:, :n] * decay_t
        g[:, :n].addcmul_(decay, C[:, step, :, None] * grad_t[:, :, None])
    for k in range(last - 1, 0, -1):
        g[:, k].addcmul_(decay[:, k], g[:, k + 1])
    g = torch.cat((g[:, 1:], torch.zeros_like(g[:, :1])), 1)  # of the state that it ends with

    rate = A / LOG2E
    grad_A, grad_D, grad_bias = torch.zeros_like(g), torch.zeros_like(g[:, :, 0]), torch.zeros_like(g[:, :, 0])
    for t in reversed(range(steps)):
        step = slice(t, None, steps)
        u_t, delta_t, grad_t = u[:, step], delta[:, step], grad[:, step]
        n = u_t.shape[1]
        g_t = g[:, :n].addcmul_(C[:, step, :, None], grad_t[:, :, None])
        grad_B[:, step] += torch.einsum('bkd,bknd->bkn', delta_t * u_t, g_t)
        grad_input = torch.einsum('bkn,bknd->bkd', B[:, step], g_t)  # of delta_t * u_t
        torch.addcmul(delta_t * grad_input, grad_t, D, out=grad_u[:, step])
        g_t *= (delta_t[:, :, None] * A).exp2_()  # of the state before
        grad_exponent = g_t * history[t][:, :n]  # of delta_t * A
        grad_A[:, :n].addcmul_(grad_exponent, delta_t[:, :, None])
        grad_D[:, :n].addcmul_(grad_t, u_t)
        grad_delta = grad_exponent.mul_(rate).sum(2).addcmul_(grad_input, u_t)
        grad_delta *= -torch.expm1(-delta_t)  # the slope of softplus
        grad_bias[:, :n] += grad_delta
        delta[:, step] = grad_delta
    return grad_A.sum((0, 1)), grad_D.sum((0, 1)), grad_bias.sum((0, 1))
