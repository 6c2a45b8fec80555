"""The residual branch of a gated CNN block as one operator (arXiv 2405.07992, Algorithm 1).

The branch is ``fc2(act(g) * [i, conv(c)])`` with ``g, i, c = fc1(norm(x))``, for maps ``(B, H, W, C)``. Its modules,
run one by one, save 15.3 values per cell and channel for the backward pass: the inputs of the norm, of both linear
layers, of the convolution, of the activation and of the product. The operator saves 6.3: ``x`` and the output of
``fc1``. It recomputes the rest, which is cheap beside the matrix products.
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

IMPLEMENTATIONS = dict(
    auto="'eager' on CUDA and 'fused' elsewhere, in each case the one with the fastest training steps measured",
    eager='the modules one by one: the reference, and the one that operations are counted on',
    fused='one operator, on any device',
    triton="'fused' with the convolution, the gate and their gradients as Triton kernels, on CUDA",
)
CHANNEL_MULTIPLE = 8  # hidden channels that tensor cores process together in half precision


def implementation_on(device: torch.device, implementation: str) -> str:
    """Replace ``'auto'`` by the implementation for a device; any other key of ``IMPLEMENTATIONS`` stays.

    Raises:
        UserError: If the implementation does not run on the device.
    """
    # meta tensors hold no data to compute, and Triton's interpreter runs on any device
    if implementation == 'triton' and device.type not in ('cuda', 'meta') and 'TRITON_INTERPRET' not in os.environ:
        raise UserError(
            f"MambaOut: gated_cnn='triton' needs CUDA, and the model is on {device}; gated_cnn='auto' fits any device"
        )
    if implementation != 'auto':
        return implementation
    return 'eager' if device.type == 'cuda' else 'fused'


def implementation_for(x: Tensor, implementation: str) -> str:
    """Choose ``'eager'``, ``'fused'`` or ``'triton'`` for an input of the block."""
    implementation = implementation_on(x.device, implementation)
    # exports and counts by tracing know PyTorch's operators only; meta tensors and empty batches have nothing to save
    if torch.jit.is_tracing() or x.device.type == 'meta' or 0 in x.shape:
        return 'eager'
    return implementation


def gated_cnn(
    x: Tensor, norm: nn.LayerNorm, fc1: nn.Linear, conv: nn.Conv2d, fc2: nn.Linear, act: nn.Module, implementation: str
) -> Tensor:
    """Compute the branch as one operator, ``(B, H, W, C)`` to the same shape.

    Args:
        x: Input of the block, of any floating dtype.
        norm: LayerNorm over ``C``.
        fc1: Linear layer from ``C`` to twice the hidden width.
        conv: Depthwise convolution with an odd kernel, for the last hidden channels.
        fc2: Linear layer from the hidden width to ``C``.
        act: ``nn.GELU()`` or ``nn.SiLU()``.
        implementation: ``'fused'`` or ``'triton'``. In double precision, ``'triton'`` computes as ``'fused'`` does.
    """
    device = x.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    triton = implementation == 'triton' and dtype != torch.double  # its kernels compute in single precision
    weights = [p.to(dtype) for layer in (fc1, conv, fc2) for p in (layer.weight, layer.bias)]
    if triton and dtype.itemsize == 2:
        weights = pad_hidden_channels(*weights)
    inputs = [x, norm.weight, norm.bias, *weights]
    save = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    with torch.autocast(device, enabled=False):
        return fused(*inputs, norm.eps, type(act).__name__, triton, save)[0]


def pad_hidden_channels(
    fc1_weight: Tensor, fc1_bias: Tensor, conv_weight: Tensor, conv_bias: Tensor, fc2_weight: Tensor, fc2_bias: Tensor
) -> list[Tensor]:
    """Pad the hidden channels to a multiple of ``CHANNEL_MULTIPLE`` for tensor cores; the function stays the same.

    The added channels get zeros from ``fc1`` and pass zeros to ``fc2``. The size base has 341, 682 and 1365 hidden
    channels, which become 344, 688 and 1368; convolved channels are such a multiple in all published sizes. The
    parameters of the model keep their shapes.
    """
    hidden, convolved = fc2_weight.shape[1], len(conv_bias)
    plain = hidden - convolved
    if not (extra := -plain % CHANNEL_MULTIPLE):
        return [fc1_weight, fc1_bias, conv_weight, conv_bias, fc2_weight, fc2_bias]

    def pad_rows(rows: Tensor) -> Tensor:
        zeros = rows.new_zeros(extra, *rows.shape[1:])
        g, i, c = rows.tensor_split(
            [plain, hidden + plain]
        )  # i also holds the convolved channels of g, which precede it
        return torch.cat((g, zeros, i, zeros, c))

    plain_weight, convolved_weight = fc2_weight.split((plain, convolved), dim=1)
    fc2_weight = torch.cat((F.pad(plain_weight, (0, extra)), convolved_weight), dim=1)
    return [pad_rows(fc1_weight), pad_rows(fc1_bias), conv_weight, conv_bias, fc2_weight, fc2_bias]


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
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The branch in the dtype of the weights, and, if ``save``, ``[g, i]`` and ``c`` for the backward pass."""
    x = x.to(norm_weight.dtype)  # x is in half precision if a convolution made it under autocast
    rows = F.layer_norm(x, norm_weight.shape, norm_weight, norm_bias, eps).to(fc1_weight.dtype).flatten(0, -2)
    convolved = len(conv_bias)
    weight, bias = fc1_weight[:-convolved], fc1_bias[:-convolved]
    c = F.linear(rows, fc1_weight[-convolved:], fc1_bias[-convolved:]).view(*x.shape[:-1], convolved)
    gate, _, tiles = _gates(c, conv_weight, conv_bias, act, triton)
    branch = torch.empty_like(rows)
    gi = rows.new_empty(len(rows) if save else len(rows[tiles[0]]), len(bias))
    for tile in tiles:
        tile_gi = gi[tile] if save else gi[: len(rows[tile])]
        torch.addmm(bias, rows[tile], weight.T, out=tile_gi)
        torch.addmm(fc2_bias, gate(tile, tile_gi), fc2_weight.T, out=branch[tile])
    if not save:
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
    """Gradients of the nine input tensors of :func:`fused`, in its order."""
    wide_x = x.to(norm_weight.dtype)
    normed, mean, rstd = torch.native_layer_norm(wide_x, norm_weight.shape, norm_weight, norm_bias, eps)
    rows, grad, convolved = normed.to(gi.dtype).flatten(0, -2), grad.flatten(0, -2), len(conv_bias)
    del normed
    _, gate_backward, tiles = _gates(c, conv_weight, conv_bias, act, triton)
    wide = dict(dtype=torch.promote_types(gi.dtype, torch.float))  # sums over all cells need single precision
    grad_fc1, grad_fc2 = torch.zeros_like(fc1_weight, **wide), torch.zeros_like(fc2_weight, **wide)
    grad_fc1_bias = torch.zeros(len(fc1_weight), device=x.device, **wide)
    grad_rows, grad_u = torch.empty_like(rows), torch.empty_like(c).flatten(0, -2)
    for tile in tiles:
        product, grad_gi = gate_backward(tile, gi[tile], grad[tile] @ fc2_weight, grad_u[tile])
        _add_product(grad_fc2, grad[tile].T, product)
        _add_product(grad_fc1[:-convolved], grad_gi.T, rows[tile])
        grad_fc1_bias[:-convolved] += grad_gi.sum(0, **wide)
        torch.mm(grad_gi, fc1_weight[:-convolved], out=grad_rows[tile])
    del product, grad_gi  # these hold 7 values per cell and channel
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
    """Add ``a @ b`` to ``total``, which may have a higher precision."""
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
    new, cells, convolved, save = fc1_weight.new_empty, x.shape[:-1], len(conv_weight), args[-1]
    rows = math.prod(cells)  # numel() would fix sizes for a compiler
    if not save:
        return new(x.shape), new(0), new(0)
    return new(x.shape), new(rows, len(fc1_weight) - convolved), new(*cells, convolved)


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
    return 4 * math.prod(x[:-1]) * (math.prod(fc1) + math.prod(fc2) + math.prod(conv))  # without what is recomputed


# --- between the linear layers: act(g) * [i, u] with u = conv(c), and its backward pass


ACTS = dict(GELU=F.gelu, SiLU=F.silu)
ACTS_BACKWARD = dict(GELU=torch.ops.aten.gelu_backward.grad_input, SiLU=torch.ops.aten.silu_backward.grad_input)
CACHE_BYTES = 2**22  # of fc1's output, which then stays in a CPU's cache until it is used


def _gates(c: Tensor, weight: Tensor, bias: Tensor, act: str, triton: bool) -> tuple[Callable, Callable, list[slice]]:
    """The gate, its backward pass, and the tiles (slices of rows, one row per cell) that they process in turn.

    The gate turns ``[g, i]`` into the product ``act(g) * [i, u]``. Its backward pass returns the product again together
    with the gradient of ``[g, i]``, and writes the gradient of ``u``.
    """
    count = c.shape[:-1].numel()
    if triton:
        from . import gated_cnn_triton as kernels  # Triton is installed only where CUDA may be

        def gate(tile: slice, gi: Tensor) -> Tensor:
            return kernels.gate(gi, c, weight, bias, act)

        def gate_backward(tile: slice, gi: Tensor, grad: Tensor, grad_u: Tensor) -> tuple[Tensor, Tensor]:
            return kernels.gate_backward(gi, c, weight, bias, act, grad, grad_u)

        return gate, gate_backward, [slice(0, count)]

    maps = F.conv2d(c.permute(0, 3, 1, 2), weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))
    u = maps.permute(0, 2, 3, 1).flatten(0, -2)
    convolved = len(weight)

    def split(gi: Tensor) -> tuple[Tensor, Tensor]:
        hidden = (gi.shape[1] + convolved) // 2
        return gi[:, :hidden], gi[:, hidden:]

    def multiply(value: Tensor, tile: slice, i: Tensor) -> Tensor:
        value[:, :-convolved] *= i
        value[:, -convolved:] *= u[tile]
        return value

    def gate(tile: slice, gi: Tensor) -> Tensor:
        g, i = split(gi)
        return multiply(ACTS[act](g), tile, i)

    def gate_backward(tile: slice, gi: Tensor, grad: Tensor, grad_u: Tensor) -> tuple[Tensor, Tensor]:
        (g, i), grad_gi = split(gi), torch.empty_like(gi)
        grad_g, grad_i = split(grad_gi)
        value = ACTS[act](g)
        torch.mul(grad[:, :-convolved], value[:, :-convolved], out=grad_i)
        torch.mul(grad[:, -convolved:], value[:, -convolved:], out=grad_u)
        ACTS_BACKWARD[act](multiply(grad, tile, i), g, grad_input=grad_g)
        return multiply(value, tile, i), grad_gi

    size = max(CACHE_BYTES // (c.element_size() * 6 * convolved), 1) if c.device.type == 'cpu' else count
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
