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
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

from ..errors import UserError
from . import gated_cnn_tiled

IMPLEMENTATIONS = dict(
    auto="'eager' on CUDA and 'fused' elsewhere, in each case the one with the fastest training steps measured",
    eager='the modules one by one: the reference, and the one that operations are counted on',
    fused='one operator, on any device',
    triton="'fused' with the norm, the convolution, the gate and their gradients as Triton kernels, on CUDA",
)


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
    if torch.jit.is_tracing() or torch.compiler.is_exporting() or x.device.type == 'meta' or 0 in x.shape:
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
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else fc1.weight.dtype
    triton = implementation == 'triton' and dtype != torch.double  # its kernels compute in single precision
    parameters = [p for layer in (norm, fc1, conv, fc2) for p in (layer.weight, layer.bias)]
    save = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, *parameters))
    arguments = x, *parameters, norm.eps, type(act).__name__, dtype, triton, save
    if torch.compiler.is_compiling():
        return fused(*arguments)[0]
    # outside of a compiler, the wrappers of a custom operator take longer than the work on a small map
    return GatedCNN.apply(*arguments)[0] if save else _forward(*arguments)[0]


def _kernels(triton: bool) -> ModuleType:
    """The module that computes the branch and its gradients."""
    if triton:
        from . import gated_cnn_triton  # Triton is installed only where CUDA may be

        return gated_cnn_triton
    return gated_cnn_tiled


def _forward(
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
    triton: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The branch, computed in ``dtype``, and, if ``save``, ``[g, i]`` and ``c`` for the backward pass.

    The Triton kernels save ``h = [g, i, c]`` as one tensor, ``(cells, 2 * hidden)``; the third tensor is then empty.
    """
    parameters = norm_weight, norm_bias, fc1_weight, fc1_bias, conv_weight, conv_bias, fc2_weight, fc2_bias
    with torch.autocast(x.device.type, enabled=False):
        return _kernels(triton).forward(x, *parameters, eps, act, dtype, save)


def _backward(
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
    """Gradients of the nine input tensors of :func:`fused`, in its order and in their dtypes."""
    parameters = norm_weight, norm_bias, fc1_weight, conv_weight, conv_bias, fc2_weight
    with torch.autocast(x.device.type, enabled=False):
        return _kernels(triton).backward(grad, x, gi, c, *parameters, eps, act)


fused = torch.library.custom_op('mambaout::gated_cnn', _forward, mutates_args=())
fused_backward = torch.library.custom_op('mambaout::gated_cnn_backward', _backward, mutates_args=())


@fused.register_fake
def _(
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
    triton: bool,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    branch = x.new_empty(x.shape, dtype=dtype)
    if not save:
        return branch, x.new_empty(0, dtype=dtype), x.new_empty(0, dtype=dtype)
    rows, convolved = math.prod(x.shape[:-1]), len(conv_weight)  # numel() would fix sizes for a compiler
    if triton:
        width = _kernels(triton).padded_width(fc2_weight.shape[1], dtype)
        return branch, x.new_empty(rows, 2 * width, dtype=dtype), x.new_empty(0, dtype=dtype)
    gi = x.new_empty(rows, len(fc1_weight) - convolved, dtype=dtype)
    return branch, gi, x.new_empty(*x.shape[:-1], convolved, dtype=dtype)


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
    def new(like: Tensor, *shape: int) -> Tensor:
        return like.new_empty(shape or like.shape)

    fc1, conv = (new(fc1_weight), new(fc1_weight, len(fc1_weight))), (new(conv_weight), new(conv_bias))
    return new(x), new(norm_weight), new(norm_bias), *fc1, *conv, new(fc2_weight), new(fc2_weight, len(fc2_weight))


def _setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple) -> None:
    x, norm_weight, norm_bias, fc1_weight, _, conv_weight, conv_bias, fc2_weight, _, eps, act, _, triton, _ = inputs
    ctx.settings = eps, act, triton
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # the saved outputs would get gradients of zeros, which are as large
    ctx.save_for_backward(x, *output[1:], norm_weight, norm_bias, fc1_weight, conv_weight, conv_bias, fc2_weight)


def _gradients(
    function: Callable, ctx: torch.autograd.function.FunctionCtx, grad: Tensor | None
) -> tuple[Tensor | None, ...]:
    """The gradients by ``function``, and ``None`` for the five arguments that are not tensors."""
    if grad is None:  # a later function has no gradient
        return (None,) * 14
    return *function(grad.contiguous(), *ctx.saved_tensors, *ctx.settings), None, None, None, None, None


def _compiled_backward(
    ctx: torch.autograd.function.FunctionCtx, grad: Tensor | None, *_: Tensor
) -> tuple[Tensor | None, ...]:
    return _gradients(fused_backward, ctx, grad)


fused.register_autograd(_compiled_backward, setup_context=_setup_context)


class GatedCNN(torch.autograd.Function):
    """:func:`fused` without the wrappers of a custom operator."""

    @staticmethod
    def forward(*inputs: object) -> tuple[Tensor, Tensor, Tensor]:
        """Compute what :func:`fused` computes, from its arguments."""
        return _forward(*inputs)

    setup_context = staticmethod(_setup_context)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: Tensor | None, *_: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Compute what :func:`fused_backward` computes."""
        return _gradients(_Gradients.apply if torch.is_grad_enabled() else _backward, ctx, grad)


class _Gradients(torch.autograd.Function):
    """The gradients, which refuse to be differentiated; without it, second derivatives would silently be zero."""

    @staticmethod
    def forward(*inputs: object) -> tuple[Tensor, ...]:
        return _backward(*inputs)

    @staticmethod
    def setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple) -> None:
        pass

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> None:
        raise RuntimeError("the gated CNN operator has no second derivatives; gated_cnn='eager' has them")


@register_flop_formula(torch.ops.mambaout.gated_cnn)
def _(
    x: tuple, norm: tuple, norm_bias: tuple, fc1: tuple, fc1_bias: tuple, conv: tuple, *args: object, **_: object
) -> int:
    return 2 * math.prod(x[:-1]) * (math.prod(fc1) + math.prod(args[1]) + math.prod(conv))


@register_flop_formula(torch.ops.mambaout.gated_cnn_backward)
def _(grad: tuple, x: tuple, gi: tuple, c: tuple, norm: tuple, norm_bias: tuple, *args: object, **_: object) -> int:
    fc1, conv, _, fc2 = args[:4]
    return 4 * math.prod(x[:-1]) * (math.prod(fc1) + math.prod(fc2) + math.prod(conv))  # without what is recomputed
