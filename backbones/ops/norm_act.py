"""A LayerNorm and an activation that keep only their input for the backward pass.

The two modules, run one by one, also keep the normalised map. In a stem this is one of the largest maps of the model,
and it is cheap to compute again. ``torch.utils.checkpoint`` would do so too, but ``torch.func`` does not support it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .gated_cnn_tiled import tiles_of

ACTS = dict(GELU=F.gelu, SiLU=F.silu)
ACTS_BACKWARD = dict(GELU=torch.ops.aten.gelu_backward, SiLU=torch.ops.aten.silu_backward)


def norm_act(x: Tensor, norm: nn.LayerNorm, act: nn.Module) -> Tensor:
    """Compute ``act(norm(x))``.

    Args:
        x: ``(..., C)``, of any floating dtype.
        norm: LayerNorm over ``C``.
        act: ``nn.GELU()`` or ``nn.SiLU()``.

    Returns:
        ``(..., C)`` in the dtype of ``x``. The computation is in the dtype of the weights.
    """
    # compilers choose by themselves what to compute again, and traces know PyTorch's operators only
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return act(norm(x))
    arguments = x, norm.weight, norm.bias, norm.eps, type(act).__name__
    save = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in arguments[:3])
    return _NormAct.apply(*arguments) if save else _NormAct.forward(*arguments)


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float, act: str) -> Tensor:
        rows, out = x.flatten(0, -2), x.new_empty(x.shape)
        for tile in tiles_of(rows, rows.shape[1]):
            normed = F.layer_norm(rows[tile].to(weight.dtype), weight.shape, weight, bias, eps)
            out.view(rows.shape)[tile] = ACTS[act](normed)
        return out

    @staticmethod
    def setup_context(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
        *tensors, ctx.eps, ctx.act = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        rows, grad_rows, grad_x = x.flatten(0, -2), grad.flatten(0, -2), x.new_empty(x.shape)
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        for tile in tiles_of(rows, rows.shape[1]):
            wide = rows[tile].to(weight.dtype)
            normed, mean, rstd = torch.native_layer_norm(wide, weight.shape, weight, bias, ctx.eps)
            grad_normed = ACTS_BACKWARD[ctx.act](grad_rows[tile].to(weight.dtype), normed)
            grads = torch.ops.aten.native_layer_norm_backward(
                grad_normed, wide, weight.shape, mean, rstd, weight, bias, [True] * 3
            )
            grad_x.view(rows.shape)[tile] = grads[0]
            grad_weight += grads[1]
            grad_bias += grads[2]
        return grad_x, grad_weight, grad_bias, None, None
