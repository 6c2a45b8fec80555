"""The residual branch of a gated CNN block as one operator (arXiv 2405.07992, Algorithm 1).

``fc2(act(g) * [i, dwconv(c)])`` with ``g, i, c = fc1(norm(x))``, for maps ``(B, H, W, C)``. Written with modules, it
keeps 15.3 values per cell and channel for the backward pass: the inputs of the norm, of both linear layers, of the
convolution, of the activation and of the product. As one operator it keeps 6.3, ``x`` and the output of ``fc1``, and
computes the rest again, which is cheap beside the matrix products.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula

from ..errors import UserError

FORMS = dict(
    auto="'eager' on CUDA, whose training steps are the fastest that were measured; 'fused' elsewhere",
    eager='the modules one by one: the reference, and what operations are counted on',
    fused='one operator, on any device',
    triton="'fused', whose convolution, gate and their gradients are Triton kernels, on CUDA",
)
ALIGNED = 8  # hidden channels that tensor cores take at once, in half precision


def form_on(device: torch.device, form: str) -> str:
    """What a form of ``FORMS`` is on a device.

    Raises:
        UserError: If that device does not have it.
    """
    # meta tensors hold no data to compute, and Triton's interpreter takes any device
    if form == 'triton' and device.type not in ('cuda', 'meta') and 'TRITON_INTERPRET' not in os.environ:
        raise UserError(
            f"MambaOut: gated_cnn='triton' needs CUDA, and the model is on {device}: 'auto' chooses by device"
        )
    if form != 'auto':
        return form
    return 'eager' if device.type == 'cuda' else 'fused'


def gated_cnn(
    x: Tensor, norm: nn.LayerNorm, fc1: nn.Linear, conv: nn.Conv2d, fc2: nn.Linear, act: nn.Module, form: str
) -> Tensor:
    """The branch, ``(B, H, W, C)`` to the same shape.

    Args:
        x: Input of the block, of any floating dtype.
        norm: LayerNorm over ``C``.
        fc1: From ``C`` to twice the hidden width.
        conv: Depthwise, of an odd kernel, from and to ``(B, H, W, channels)``, on the last of the hidden channels.
        fc2: From the hidden width to ``C``.
        act: ``nn.GELU()`` or ``nn.SiLU()``.
        form: One of ``FORMS``.
    """
    form = form_on(x.device, form)
    # exports and counts by tracing see operators that they know; nothing is to be saved where nothing is computed
    if form == 'eager' or torch.jit.is_tracing() or x.device.type == 'meta' or 0 in x.shape:
        hidden, convolved = fc2.in_features, conv.in_channels
        g, i, c = fc1(norm(x)).split((hidden, hidden - convolved, convolved), dim=-1)
        return fc2(act(g) * torch.cat((i, conv(c)), dim=-1))
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    triton = form == 'triton' and dtype != torch.double  # its kernels compute in single precision
    weights = [p.to(dtype) for layer in (fc1, conv, fc2) for p in (layer.weight, layer.bias)]
    if triton and dtype.itemsize == 2:
        weights = aligned(*weights)
    inputs = [x, norm.weight, norm.bias, *weights]
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    with torch.autocast(device, enabled=False):
        return fused(*inputs, norm.eps, type(act).__name__, triton, keep)[0]


def aligned(
    fc1_weight: Tensor, fc1_bias: Tensor, conv_weight: Tensor, conv_bias: Tensor, fc2_weight: Tensor, fc2_bias: Tensor
) -> list[Tensor]:
    """Weights of the same function with hidden channels in multiples of ``ALIGNED``, as tensor cores want them.

    Those that are convolved are such a multiple in all published sizes. The hidden channels that are added get zeros
    from ``fc1`` and hand zeros to ``fc2``. 341, 682 and 1365 channels of the size base become 344, 688 and 1368; the
    parameters keep their shapes.
    """
    hidden, convolved = fc2_weight.shape[1], len(conv_bias)
    plain = hidden - convolved
    if not (extra := -plain % ALIGNED):
        return [fc1_weight, fc1_bias, conv_weight, conv_bias, fc2_weight, fc2_bias]

    def widened(rows: Tensor) -> Tensor:
        zeros = rows.new_zeros(extra, *rows.shape[1:])
        g, i, c = rows.tensor_split([plain, hidden + plain])  # i follows the convolved channels of g
        return torch.cat((g, zeros, i, zeros, c))

    plain_weight, convolved_weight = fc2_weight.split((plain, convolved), dim=1)
    fc2_weight = torch.cat((F.pad(plain_weight, (0, extra)), convolved_weight), dim=1)
    return [widened(fc1_weight), widened(fc1_bias), conv_weight, conv_bias, fc2_weight, fc2_bias]


@torch.library.custom_op('mambaout::gated_cnn', mutates_args=())
def fused(
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
    triton: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The branch, in the dtype of the weights; and where ``keep``, ``[g, i]`` and ``c`` for the backward pass."""
    x = x.to(norm_weight.dtype)  # in half precision, where a convolution made it under autocast
    rows = F.layer_norm(x, norm_weight.shape, norm_weight, norm_bias, eps).to(fc1_weight.dtype).flatten(0, -2)
    convolved = len(conv_bias)
    weight, bias = fc1_weight[:-convolved], fc1_bias[:-convolved]
    c = F.linear(rows, fc1_weight[-convolved:], fc1_bias[-convolved:]).view(*x.shape[:-1], convolved)
    gate, _, parts = _gates(c, conv_weight, conv_bias, act, triton)
    branch = torch.empty_like(rows)
    gi = rows.new_empty(len(rows) if keep else len(rows[parts[0]]), len(bias))
    for part in parts:
        gi_part = gi[part] if keep else gi[: len(rows[part])]
        torch.addmm(bias, rows[part], weight.T, out=gi_part)
        torch.addmm(fc2_bias, gate(part, gi_part), fc2_weight.T, out=branch[part])
    if not keep:
        gi, c = rows.new_empty(0), rows.new_empty(0)
    return branch.view(x.shape), gi, c


@torch.library.custom_op('mambaout::gated_cnn_backward', mutates_args=())
def fused_backward(
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
    triton: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of the nine tensors that :func:`fused` takes, in its order."""
    wide_x = x.to(norm_weight.dtype)
    normed, mean, rstd = torch.native_layer_norm(wide_x, norm_weight.shape, norm_weight, norm_bias, eps)
    rows, grad, convolved = normed.to(gi.dtype).flatten(0, -2), grad.flatten(0, -2), len(conv_bias)
    del normed
    _, gate_backward, parts = _gates(c, conv_weight, conv_bias, act, triton)
    wide = dict(dtype=torch.promote_types(gi.dtype, torch.float))  # for sums over all cells
    grad_fc1, grad_fc2 = torch.zeros_like(fc1_weight, **wide), torch.zeros_like(fc2_weight, **wide)
    grad_fc1_bias = torch.zeros(len(fc1_weight), device=x.device, **wide)
    grad_rows, grad_u = torch.empty_like(rows), torch.empty_like(c).flatten(0, -2)
    for part in parts:
        product, grad_gi = gate_backward(part, gi[part], grad[part] @ fc2_weight, grad_u[part])
        _add_product(grad_fc2, grad[part].T, product)
        _add_product(grad_fc1[:-convolved], grad_gi.T, rows[part])
        grad_fc1_bias[:-convolved] += grad_gi.sum(0, **wide)
        torch.mm(grad_gi, fc1_weight[:-convolved], out=grad_rows[part])
    del product, grad_gi  # 7 values of each cell and channel
    grad_c, grad_conv, grad_conv_bias = _conv_backward(grad_u, c, conv_weight, triton)
    grad_rows.addmm_(grad_c, fc1_weight[-convolved:])
    grad_fc1[-convolved:] = grad_c.T @ rows
    grad_fc1_bias[-convolved:] = grad_c.sum(0, **wide)
    grad_x, grad_norm, grad_norm_bias = torch.ops.aten.native_layer_norm_backward(
        grad_rows.view(x.shape).to(wide_x.dtype),
        wide_x,
        norm_weight.shape,
        mean,
        rstd,
        norm_weight,
        norm_bias,
        [True] * 3,
    )
    grads = grad_fc1, grad_fc1_bias, grad_conv, grad_conv_bias, grad_fc2, grad.sum(0, **wide)
    return grad_x.to(x.dtype), grad_norm, grad_norm_bias, *(g.to(gi.dtype) for g in grads)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add ``a @ b`` to a sum that may be of more precision."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b


@fused.register_fake
def _(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    conv_weight: Tensor,
    *args: object,
) -> tuple[Tensor, Tensor, Tensor]:
    new, cells, convolved, keep = fc1_weight.new_empty, x.shape[:-1], len(conv_weight), args[-1]
    kept = (
        (math.prod(cells), len(fc1_weight) - convolved),
        (*cells, convolved),
    )  # numel() would fix sizes for a compiler
    return new(x.shape), *(new(shape if keep else 0) for shape in kept)


@fused_backward.register_fake
def _(
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
    *args: object,
) -> tuple[Tensor, ...]:
    new, dim = fc1_weight.new_empty, len(fc2_weight)
    norm = norm_weight.new_empty(dim), norm_bias.new_empty(dim)
    shapes = fc1_weight.shape, len(fc1_weight), conv_weight.shape, len(conv_bias), fc2_weight.shape, dim
    return x.new_empty(x.shape), *norm, *map(new, shapes)


def _setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple) -> None:
    x, norm_weight, norm_bias, fc1_weight, _, conv_weight, conv_bias, fc2_weight, _, *ctx.rest, _ = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(x, *output[1:], norm_weight, norm_bias, fc1_weight, conv_weight, conv_bias, fc2_weight)


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return *fused_backward(grad.contiguous(), *ctx.saved_tensors, *ctx.rest), None, None, None, None


fused.register_autograd(_backward, setup_context=_setup_context)


@register_flop_formula(torch.ops.mambaout.gated_cnn)
def _(
    x: tuple, norm: tuple, norm_bias: tuple, fc1: tuple, fc1_bias: tuple, conv: tuple, *args: object, **_: object
) -> int:
    return 2 * math.prod(x[:-1]) * (math.prod(fc1) + math.prod(args[1]) + math.prod(conv))


@register_flop_formula(torch.ops.mambaout.gated_cnn_backward)
def _(grad: tuple, x: tuple, gi: tuple, c: tuple, norm: tuple, norm_bias: tuple, *args: object, **_: object) -> int:
    fc1, conv, _, fc2 = args[:4]
    return 4 * math.prod(x[:-1]) * (math.prod(fc1) + math.prod(fc2) + math.prod(conv))  # what is computed anew left out


# --- what lies between the linear layers, act(g) * [i, u] with u = dwconv(c), and its backward pass


ACTS = dict(GELU=F.gelu, SiLU=F.silu)
ACTS_BACKWARD = dict(GELU=torch.ops.aten.gelu_backward.grad_input, SiLU=torch.ops.aten.silu_backward.grad_input)
PART = 2**22  # bytes of fc1's output that stay in a CPU's cache until they are used


def _gates(c: Tensor, weight: Tensor, bias: Tensor, act: str, triton: bool) -> tuple[Callable, Callable, list[slice]]:
    """The gate, its backward pass, and the parts of all cells that they take, one after the other.

    The gate makes the product of ``[g, i]``. Its backward pass makes it again, with the gradient of ``[g, i]``, and
    writes the gradient of ``u``.
    """
    count = c.shape[:-1].numel()
    if triton:
        from . import gated_cnn_triton as kernels  # Triton is there only where CUDA may be

        def gate(part: slice, gi: Tensor) -> Tensor:
            return kernels.gate(gi, c, weight, bias, act)

        def gate_backward(part: slice, gi: Tensor, grad: Tensor, grad_u: Tensor) -> tuple[Tensor, Tensor]:
            return kernels.gate_backward(gi, c, weight, bias, act, grad, grad_u)

        return gate, gate_backward, [slice(0, count)]

    maps = F.conv2d(c.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))
    u = maps.permute(0, 2, 3, 1).flatten(0, -2)
    convolved = len(weight)

    def split(gi: Tensor) -> tuple[Tensor, Tensor]:
        hidden = (gi.shape[1] + convolved) // 2
        return gi[:, :hidden], gi[:, hidden:]

    def multiply(value: Tensor, part: slice, i: Tensor) -> Tensor:
        value[:, :-convolved] *= i
        value[:, -convolved:] *= u[part]
        return value

    def gate(part: slice, gi: Tensor) -> Tensor:
        g, i = split(gi)
        return multiply(ACTS[act](g), part, i)

    def gate_backward(part: slice, gi: Tensor, grad: Tensor, grad_u: Tensor) -> tuple[Tensor, Tensor]:
        (g, i), grad_gi = split(gi), torch.empty_like(gi)
        grad_g, grad_i = split(grad_gi)
        value = ACTS[act](g)
        torch.mul(grad[:, :-convolved], value[:, :-convolved], out=grad_i)
        torch.mul(grad[:, -convolved:], value[:, -convolved:], out=grad_u)
        ACTS_BACKWARD[act](multiply(grad, part, i), g, grad_input=grad_g)
        return multiply(value, part, i), grad_gi

    size = max(PART // (c.element_size() * 6 * convolved), 1) if c.device.type == 'cpu' else count
    return gate, gate_backward, [slice(start, start + size) for start in range(0, count, size)]


def _conv_backward(grad_u: Tensor, c: Tensor, weight: Tensor, triton: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``c``, as rows, and of the convolution's weight and bias."""
    grad_u = grad_u.view(c.shape)
    if triton:
        from . import gated_cnn_triton as kernels

        return kernels.conv_backward(grad_u, c, weight)
    maps, padding = (grad_u.permute(0, 3, 1, 2), c.permute(0, 3, 1, 2)), [weight.shape[-1] // 2] * 2
    grad_c, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
        *maps, weight, [len(weight)], [1, 1], padding, [1, 1], False, [0, 0], len(weight), [True] * 3
    )
    return grad_c.permute(0, 2, 3, 1).flatten(0, -2), grad_weight, grad_bias
