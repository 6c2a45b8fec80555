"""The branch of :mod:`.gated_cnn` on any device, in tiles of rows that stay in a CPU's cache."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from ..private_names import LINEAR_AND_ACT
from .depthwise import depthwise_backward

ACTS = dict(GELU=torch.ops.aten.gelu.out, SiLU=torch.ops.aten.silu.out)
ACTS_BACKWARD = dict(GELU=torch.ops.aten.gelu_backward.grad_input, SiLU=torch.ops.aten.silu_backward.grad_input)
ONEDNN = getattr(torch.ops.mkldnn, LINEAR_AND_ACT, None)
ONEDNN_ACTS = dict(GELU=('gelu', [], 'none'), SiLU=('swish', [], ''))
CACHE_BYTES = 2**22  # of a part of a map, such as fc1's output, that stays in a CPU's cache until it is used


def forward(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
    eps: float,
    act: str,
    dtype: torch.dtype,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The branch in ``dtype``, and, if ``save``, ``[g, i]`` as rows and ``c`` as a map; else empty tensors."""
    fc1_weight, fc1_bias, conv_weight, conv_bias, fc2_weight, fc2_bias = (
        p.to(dtype) for p in (fc1_weight, fc1_bias, conv_weight, conv_bias, fc2_weight, fc2_bias)
    )
    x = x.to(norm_weight.dtype)  # x is in half precision if a convolution made it under autocast
    rows = F.layer_norm(x, norm_weight.shape, norm_weight, norm_bias, eps).to(dtype).flatten(0, -2)
    convolved = len(conv_bias)
    weight, bias = fc1_weight[:-convolved], fc1_bias[:-convolved]
    c = F.linear(rows, fc1_weight[-convolved:], fc1_bias[-convolved:]).view(*x.shape[:-1], convolved)
    u, tiles = _convolve(c, conv_weight, conv_bias), tiles_of(rows, len(fc1_weight))
    branch, size = torch.empty_like(rows), len(rows[tiles[0]])
    gi = rows.new_empty(len(rows) if save else 0, len(bias))
    hidden = fc2_weight.shape[1]
    values = rows.new_empty(size if save else 0, hidden)  # all tiles use it, because fresh memory is slow
    for tile in tiles:
        if save:
            torch.addmm(bias, rows[tile], weight.T, out=gi[tile])
            g, i = _split(gi[tile], convolved)
            value = ACTS[act](g, out=values[: len(g)])
        else:
            value = _linear_and_act(rows[tile], weight[:hidden], bias[:hidden], act)
            i = F.linear(rows[tile], weight[hidden:], bias[hidden:])
        torch.addmm(fc2_bias, _multiply(value, i, u[tile]), fc2_weight.T, out=branch[tile])
    if not save:
        gi, c = rows.new_empty(0), rows.new_empty(0)
    return branch.view(x.shape), gi, c


def backward(
    grad: Tensor,
    x: Tensor,
    gi: Tensor,
    c: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    fc1_weight: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    fc2_weight: Tensor,
    eps: float,
    act: str,
) -> tuple[Tensor, ...]:
    """Gradients of ``x`` and of the eight parameters, in their order and dtypes."""
    parameters = norm_weight, norm_bias, fc1_weight, fc1_weight, conv_weight, conv_bias, fc2_weight, fc2_weight
    dtypes = [tensor.dtype for tensor in (x, *parameters)]
    fc1_weight, conv_weight, conv_bias, fc2_weight = (
        p.to(gi.dtype) for p in (fc1_weight, conv_weight, conv_bias, fc2_weight)
    )
    x = x.to(norm_weight.dtype)
    normed, mean, rstd = torch.native_layer_norm(x, norm_weight.shape, norm_weight, norm_bias, eps)
    rows, grad, convolved = normed.to(gi.dtype).flatten(0, -2), grad.flatten(0, -2), len(conv_bias)
    del normed
    u = _convolve(c, conv_weight, conv_bias)
    wide = dict(dtype=torch.promote_types(gi.dtype, torch.float))  # sums over all cells need single precision
    grad_rows, grad_u, grad_fc1, grad_fc1_bias, grad_fc2 = _tiles_backward(
        grad, rows, gi, u, fc1_weight, fc2_weight, act, wide
    )
    grad_conv_bias = grad_u.sum(0, **wide)
    grad_c, grad_conv = depthwise_backward(grad_u.view(c.shape), c, conv_weight)
    grad_c = grad_c.flatten(0, -2)
    torch.addmm(grad_rows, grad_c, fc1_weight[-convolved:], out=grad_rows)
    grad_fc1[-convolved:] = grad_c.T @ rows
    grad_fc1_bias[-convolved:] = grad_c.sum(0, **wide)
    norm_grads = torch.ops.aten.native_layer_norm_backward(
        grad_rows.view(x.shape).to(x.dtype), x, norm_weight.shape, mean, rstd, norm_weight, norm_bias, [True] * 3
    )
    grads = *norm_grads, grad_fc1, grad_fc1_bias, grad_conv, grad_conv_bias, grad_fc2, grad.sum(0, **wide)
    return tuple(g.to(dtype) for g, dtype in zip(grads, dtypes, strict=True))


def _tiles_backward(
    grad: Tensor,
    rows: Tensor,
    gi: Tensor,
    u: Tensor,
    fc1_weight: Tensor,
    fc2_weight: Tensor,
    act: str,
    wide: dict[str, torch.dtype],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of ``rows``, ``u``, and the parameters of ``fc1`` and ``fc2``; the part of ``c`` is still missing."""
    tiles, convolved, hidden = tiles_of(rows, len(fc1_weight)), u.shape[1], fc2_weight.shape[1]
    size = len(rows[tiles[0]])
    grad_fc1, grad_fc2 = torch.zeros_like(fc1_weight, **wide), torch.zeros_like(fc2_weight, **wide)
    grad_fc1_bias = rows.new_zeros(len(fc1_weight), **wide)
    grad_rows, grad_u = torch.empty_like(rows), torch.empty_like(u)
    # all tiles use the same memory, because fresh memory is slow
    products, values, grads_gi = (rows.new_empty(size, width) for width in (hidden, hidden, gi.shape[1]))
    for tile in tiles:
        count, (g, i) = len(rows[tile]), _split(gi[tile], convolved)
        grad_product, value, grad_gi = products[:count], values[:count], grads_gi[:count]
        grad_g, grad_i = _split(grad_gi, convolved)
        torch.mm(grad[tile], fc2_weight, out=grad_product)
        ACTS[act](g, out=value)
        torch.mul(grad_product[:, :-convolved], value[:, :-convolved], out=grad_i)
        torch.mul(grad_product[:, -convolved:], value[:, -convolved:], out=grad_u[tile])
        ACTS_BACKWARD[act](_multiply(grad_product, i, u[tile]), g, grad_input=grad_g)
        _add_product(grad_fc2, grad[tile].T, _multiply(value, i, u[tile]))
        _add_product(grad_fc1[:-convolved], grad_gi.T, rows[tile])
        grad_fc1_bias[:-convolved] += grad_gi.sum(0, **wide)
        torch.mm(grad_gi, fc1_weight[:-convolved], out=grad_rows[tile])
    return grad_rows, grad_u, grad_fc1, grad_fc1_bias, grad_fc2


def tiles_of(rows: Tensor, width: int) -> list[slice]:
    """Divide rows into equal parts; on a CPU, ``width`` values for each row of a part fit into its cache."""
    count = len(rows)
    if rows.device.type != 'cpu' or not count:
        return [slice(count)]
    size = math.ceil(count / math.ceil(count * width * rows.element_size() / CACHE_BYTES))
    return [slice(start, start + size) for start in range(0, count, size)]


def _convolve(c: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``conv(c)`` as rows."""
    maps = F.conv2d(c.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))
    return maps.permute(0, 2, 3, 1).flatten(0, -2)


def _split(gi: Tensor, convolved: int) -> tuple[Tensor, Tensor]:
    """``g`` and ``i``."""
    hidden = (gi.shape[1] + convolved) // 2
    return gi[:, :hidden], gi[:, hidden:]


def _linear_and_act(x: Tensor, weight: Tensor, bias: Tensor, act: str) -> Tensor:
    """Compute a linear layer and its activation, in one pass over the result where oneDNN can."""
    if ONEDNN and x.device.type == 'cpu' and x.dtype == torch.float and torch.backends.mkldnn.enabled:
        return ONEDNN(x, weight, bias, *ONEDNN_ACTS[act])
    value = F.linear(x, weight, bias)
    return ACTS[act](value, out=value)


if ONEDNN:

    @register_flop_formula(ONEDNN)
    def _(x: tuple, weight: tuple, *_: object, **__: object) -> int:
        return 2 * math.prod(x) * weight[0]


def _multiply(value: Tensor, i: Tensor, u: Tensor) -> Tensor:
    """Multiply ``value`` in place by ``[i, u]``."""
    convolved = u.shape[1]
    value[:, :-convolved] *= i
    value[:, -convolved:] *= u
    return value


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add ``a @ b`` to ``total``, which may have a higher precision."""
    if total.dtype == a.dtype:
        torch.addmm(total, a, b, out=total)
    else:
        total += a @ b
