"""The branch of :mod:`.gated_cnn` with Triton kernels around the matrix products.

The output of ``fc1``, ``h = [g, i, c]``, is one matrix, and so is its gradient. So ``fc1`` needs one matrix product in
the forward pass and two in the backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .gate_triton import conv_input_backward, conv_weight_backward, gate, gate_backward, make_taps
from .layer_norm_triton import layer_norm, layer_norm_backward

CHANNEL_MULTIPLE = 8  # hidden channels that tensor cores process together in half precision: 16 bytes


def padded_width(hidden: int, dtype: torch.dtype) -> int:
    """Hidden channels that are computed: in half precision the next multiple of ``CHANNEL_MULTIPLE``.

    The size base has 341, 682 and 1365 hidden channels, which become 344, 688 and 1368.
    """
    return hidden + -hidden % CHANNEL_MULTIPLE if dtype.itemsize == 2 else hidden


def _pad(parameter: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Convert, and put zeros before the hidden channels, which are dimension 1, so that they have this width.

    Channels that are zero in ``fc1`` and ``fc2`` change nothing. They come first so that those of ``g`` and of
    ``[i, c]`` are padded alike.
    """
    if not (extra := width - parameter.shape[1]):
        return parameter.to(dtype)
    padded = parameter.new_zeros(len(parameter), width, *parameter.shape[2:], dtype=dtype)
    padded[:, extra:] = parameter
    return padded


def _product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` in single precision."""
    if a.is_cuda and a.dtype.itemsize == 2:
        return torch.mm(a, b, out_dtype=torch.float)
    return (a @ b).float()  # a CPU has no product with another dtype


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
    """The branch in ``dtype``, and, if ``save``, ``h`` with padded hidden channels; the third tensor is empty."""
    width = padded_width(fc2_weight.shape[1], dtype)
    with torch.cuda.device_of(x):  # Triton launches on the current device
        rows = layer_norm(x, norm_weight, norm_bias, eps, dtype)
        weight, bias = (_pad(p.unflatten(0, (2, -1)), width, dtype).flatten(0, 1) for p in (fc1_weight, fc1_bias))
        h = torch.addmm(bias, rows, weight.T)
        product = gate(h, x.shape, make_taps(conv_weight), conv_bias, act)
        branch = torch.addmm(fc2_bias.to(dtype), product, _pad(fc2_weight, width, dtype).T)
    return branch.view(x.shape), h if save else h.new_empty(0), h.new_empty(0)


def backward(
    grad: Tensor,
    x: Tensor,
    h: Tensor,
    _: Tensor,
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
    grad, width = grad.flatten(0, -2), h.shape[1] // 2
    extra = width - fc2_weight.shape[1]
    with torch.cuda.device_of(x):
        product = grad @ _pad(fc2_weight, width, h.dtype)  # its gradient, until the kernel has replaced it
        taps = make_taps(conv_weight)
        grad_h, grad_u = gate_backward(h, x.shape, taps, conv_bias, act, product)
        grad_fc2 = _product(grad.T, product)[:, extra:]
        del product
        conv_input_backward(grad_u, x.shape, taps, grad_h)
        grad_conv, grad_conv_bias = conv_weight_backward(grad_u, h, x.shape, taps)
        del grad_u
        grad_fc1 = _product(grad_h.T, layer_norm(x, norm_weight, norm_bias, eps, h.dtype))
        grad_fc1_bias = grad_h.sum(0, dtype=torch.float)
        grad_rows = grad_h @ _pad(fc1_weight.unflatten(0, (2, -1)), width, h.dtype).flatten(0, 1)
        del grad_h
        grad_x, grad_norm, grad_norm_bias = layer_norm_backward(grad_rows, x, norm_weight, eps)
    grad_fc1, grad_fc1_bias = (g.unflatten(0, (2, -1))[:, extra:].flatten(0, 1) for g in (grad_fc1, grad_fc1_bias))
    grads = (
        (grad_norm, norm_weight),
        (grad_norm_bias, norm_bias),
        (grad_fc1, fc1_weight),
        (grad_fc1_bias, fc1_weight),
        (grad_conv, conv_weight),
        (grad_conv_bias, conv_bias),
        (grad_fc2, fc2_weight),
        (grad.sum(0, dtype=torch.float), fc2_weight),
    )
    return grad_x, *(g.to(parameter.dtype).contiguous() for g, parameter in grads)
