"""Convolution matrices of S4ND from the parameters of its state spaces (arXiv 2210.06583, 2111.00396)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

ALIASING = 1e-8  # part of a kernel's values beyond its length that is added to its values


def impulse_responses(
    length: int, C: Tensor, inv_dt: Tensor, B: Tensor, P: Tensor, A_real: Tensor, A_imag: Tensor
) -> Tensor:
    """Compute the first values of the impulse responses of state spaces, in double precision.

    The transfer function ``sum_l k[l] z^l = dt C ((1 - z) I - (1 + z) dt/2 A)^-1 B`` is known in closed form, by
    Woodbury's identity. Its values at ``length`` points of a circle are the Fourier transform of the response. On a
    circle smaller than the unit circle, the values beyond ``length`` have almost no part in them, so that no power of
    the state matrix is needed.

    Complex numbers have real and imaginary parts along the last axis, because PyTorch 2.12 ignores the conjugate bit of
    complex tensors in operators that compiled programs call.

    Args:
        length: Number of values.
        C: Output weights ``(axes, kernels, dim, pairs, 2)``, for one of each pair of conjugate eigenvalues.
        inv_dt: Logarithms of the steps, ``(axes, dim, 1)``.
        B: Input weights ``(axes, 1, 1, pairs, 2)``.
        P: Low-rank part of ``A``, ``(axes, 1, 1, pairs, 2)``.
        A_real: Logarithms of the negative real parts of the diagonal of ``A``, ``(axes, 1, pairs)``.
        A_imag: Negative imaginary parts, ``(axes, 1, pairs)``.

    Returns:
        The values, ``(axes, kernels, dim, length)``.
    """
    C, inv_dt, B, P, A_real, A_imag = (x.double() for x in (C, inv_dt, B, P, A_real, A_imag))
    step = inv_dt.exp()[..., None]  # (axes, dim, 1, 1)
    poles = step * torch.stack((-A_real.exp(), -A_imag), -1)  # (axes, dim, pairs, 2)
    positions = torch.arange(length, dtype=torch.double, device=C.device)
    points = positions[: length // 2 + 1]  # values at the other points are conjugates
    angles = points * (2 * math.pi / length)
    z = torch.stack((angles.cos(), -angles.sin()), -1) * ALIASING ** (1 / length)
    one = torch.eye(2, dtype=torch.double, device=C.device)[0]
    u, w = one - z, (one + z) / 2
    # v / (u - w a) and its counterpart, of the conjugates of v and a, add up to
    # (2 Re(v) u - 2 Re(v conj(a)) w) / (u^2 - 2 Re(a) u w + |a|^2 w^2)
    squares = poles.square().sum(-1)[..., None, None]
    denominator = _times(u, u) - 2 * poles[..., 0, None, None] * _times(u, w) + squares * _times(w, w)
    inverse = _inverse(denominator)
    basis = torch.cat((_times(u, inverse), _times(w, inverse)), 2)  # (axes, dim, 2 pairs, points, 2)
    left = torch.cat((step[:, None] * C, _conjugate(P).expand_as(C[:, :1])), 1)  # dt C and P*
    v = _times(left[:, :, None], torch.cat((B, P), 1)[:, None])  # (axes, kernels + 1, 2, dim, pairs, 2)
    numerators = 2 * torch.cat((v[..., 0], -(v * poles[:, None, None]).sum(-1)), -1)
    sums = torch.einsum('akrdn,adnz->rakdz', numerators, basis.flatten(-2))
    with_b, with_p = sums.unflatten(-1, (-1, 2))
    weight = step[:, None] * w
    low_rank = _times(_times(weight, with_b[:, -1:]), _inverse(one + _times(weight, with_p[:, -1:])))
    transfer = with_b[:, :-1] - _times(with_p[:, :-1], low_rank)
    phases = angles[:, None] * positions
    waves = torch.stack((phases.cos(), -phases.sin()), 1) * (2 - (2 * points % length == 0).double())[:, None, None]
    return transfer.flatten(-2) @ (waves.flatten(0, 1) / length * ALIASING ** (-positions / length))


def _times(x: Tensor, y: Tensor) -> Tensor:
    """Product of complex numbers."""
    (a, b), (c, d) = x.unbind(-1), y.unbind(-1)
    return torch.stack((a * c - b * d, a * d + b * c), -1)


def _conjugate(x: Tensor) -> Tensor:
    """Conjugate of complex numbers."""
    return torch.stack((x[..., 0], -x[..., 1]), -1)


def _inverse(x: Tensor) -> Tensor:
    """Reciprocal of complex numbers."""
    return _conjugate(x) / x.square().sum(-1, keepdim=True)


def _matrices(height: int, width: int, limit: int, stride: int, *parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Compute what :func:`toeplitz` returns, with differentiable operators."""
    with torch.autocast(parameters[0].device.type, enabled=False):
        length = max(height, width)
        covered = min(length, limit or length)
        kernels = F.pad(impulse_responses(covered, *parameters), (0, length - covered)).to(parameters[0].dtype)
        return tuple(_toeplitz(*k[..., :n], stride) for k, n in zip(kernels, (height, width), strict=True))


def _toeplitz(back: Tensor, ahead: Tensor, stride: int) -> Tensor:
    """Matrices ``(dim, n / stride, n)`` from weights ``(dim, n)`` of cells before, with the own one, and behind."""
    length = back.shape[1]
    circle = torch.cat((back[:, :1], ahead, back[:, 1:].flip(1)), 1)  # weights of cells at distance 0, 1, ..., -1
    turns = circle[:, None].expand(-1, length, -1).flatten(1)  # rows of one value less begin one distance earlier
    matrices = turns[:, : length * (2 * length - 1)].unflatten(1, (length, -1))[..., :length]
    return matrices.unflatten(1, (-1, stride)).mean(2) if stride > 1 else matrices.contiguous()


@torch.library.custom_op('mambaout::s4nd_toeplitz', mutates_args=())
def toeplitz(
    C: Tensor,
    inv_dt: Tensor,
    B: Tensor,
    P: Tensor,
    A_real: Tensor,
    A_imag: Tensor,
    height: int,
    width: int,
    limit: int,
    stride: int,
) -> tuple[Tensor, Tensor]:
    """Matrices that convolve the columns and the rows of maps, and average ``stride`` neighbouring results.

    An operator keeps the sizes of maps out of compiled programs, and saves none of its many intermediate values: the
    backward pass computes them again, once for all images.

    Args:
        C: Output weights ``(2, 2, dim, pairs, 2)``, for kernels towards smaller and towards larger indices of columns
            and of rows.
        inv_dt: See :func:`impulse_responses`, as for the other parameters; ``axes`` is 2.
        B: See :func:`impulse_responses`.
        P: See :func:`impulse_responses`.
        A_real: See :func:`impulse_responses`.
        A_imag: See :func:`impulse_responses`.
        height: Length of columns, a multiple of ``stride``.
        width: Length of rows, a multiple of ``stride``.
        limit: Length at which kernels are cut; 0 for none.
        stride: Number of results that are averaged.

    Returns:
        ``(dim, height / stride, height)`` and ``(dim, width / stride, width)``, with the data type of ``C``.
    """
    return _matrices(height, width, limit, stride, C, inv_dt, B, P, A_real, A_imag)


@torch.library.custom_op('mambaout::s4nd_toeplitz_backward', mutates_args=())
def toeplitz_backward(
    grad_columns: Tensor,
    grad_rows: Tensor,
    C: Tensor,
    inv_dt: Tensor,
    B: Tensor,
    P: Tensor,
    A_real: Tensor,
    A_imag: Tensor,
    height: int,
    width: int,
    limit: int,
    stride: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the six parameters of :func:`toeplitz`, in its order."""
    parameters = C, inv_dt, B, P, A_real, A_imag
    _, pull_back = torch.func.vjp(lambda *p: _matrices(height, width, limit, stride, *p), *parameters)
    return tuple(grad.contiguous() for grad in pull_back((grad_columns, grad_rows)))


@toeplitz.register_fake
def _(C: Tensor, *args: Tensor | int) -> tuple[Tensor, Tensor]:
    height, width, _, stride = args[-4:]
    return tuple(C.new_empty(C.shape[2], n // stride, n) for n in (height, width))


@toeplitz_backward.register_fake
def _(grad_columns: Tensor, grad_rows: Tensor, *args: Tensor | int) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in args[:6])


def _setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.sizes = inputs[6:]


def _backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
    return *toeplitz_backward(*grads, *ctx.saved_tensors, *ctx.sizes), *[None] * 4


toeplitz.register_autograd(_backward, setup_context=_setup_context)
