"""The gradients of a depthwise convolution over maps ``(B, H, W, C)``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

COLUMNS = 3  # the widest kernel for which oneDNN computes the gradient of depthwise weights channel by channel
LANES = 16  # channels that oneDNN processes together
SMALL = 2**15  # values of a map: below, calling the operator several times takes longer than it saves
BUFFER_BYTES = 2**22  # of one map of several channels, which then stays in a CPU's cache


def depthwise_backward(grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the gradients of a depthwise convolution of stride 1 that keeps the size of its input.

    Args:
        grad: Gradient of the output, ``(B, H, W, C)``.
        x: Input, ``(B, H, W, C)``.
        weight: Weights ``(C, 1, K, K)``, with an odd ``K``.

    Returns:
        The gradients of the input and of the weights.
    """
    if x.device.type != 'cpu' or weight.shape[-1] <= COLUMNS or x.numel() < SMALL:
        grad_x, grad_weight = _convolution_backward(grad, x, weight, [True, True])
        return grad_x, torch.empty_like(weight).copy_(grad_weight)  # in the weight's layout, which DDP expects
    return _convolution_backward(grad, x, weight, [True, False])[0], _weight_gradient(grad, x, weight)


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Compute the gradient of a wide kernel in parts of ``COLUMNS`` columns.

    For more columns, oneDNN multiplies all pairs of 16 channels and discards 15 of 16 products. A part with other
    columns needs a shifted input. Therefore, all cells become one sequence with zeros between the rows of the map, and
    the input of a part starts later in it.
    """
    kernel, (batch, height, width, channels) = weight.shape[-1], x.shape
    cells = batch * height * (width + kernel)
    parts = math.ceil(channels * cells * x.element_size() / BUFFER_BYTES)
    size = math.ceil(channels / parts / LANES) * LANES
    # all parts of the channels use the same memory, because the first access to fresh memory is slow
    grad_rows, x_rows = (x.new_zeros(cells + kernel, size) for _ in range(2))
    result = torch.empty_like(weight)
    for part in (slice(first, first + size) for first in range(0, channels, size)):
        shape = batch, height, width + kernel, len(weight[part])
        padded_grad, padded_x = (rows[:cells, : shape[-1]].view(shape) for rows in (grad_rows, x_rows))
        padded_grad[:, :, 1 : 1 + width] = grad[..., part]
        padded_x[:, :, kernel // 2 + 1 : kernel // 2 + 1 + width] = x[..., part]
        for start in (*range(0, kernel - COLUMNS, COLUMNS), kernel - COLUMNS):
            columns = slice(start, start + COLUMNS)
            shifted = x_rows[start + 1 : start + 1 + cells, : shape[-1]].view(shape)
            gradients = _convolution_backward(padded_grad, shifted, weight[part][..., columns], [False, True])
            result[part][..., columns] = gradients[1]
    return result


def _convolution_backward(grad: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor]:
    """The gradients of the input and of the weights that are wanted, by PyTorch's operator."""
    maps, padding = (grad.permute(0, 3, 1, 2), x.permute(0, 3, 1, 2)), [size // 2 for size in weight.shape[2:]]
    grad_x, grad_weight, _ = torch.ops.aten.convolution_backward(
        *maps, weight, None, [1, 1], padding, [1, 1], False, [0, 0], len(weight), [*wanted, False]
    )
    return grad_x if grad_x is None else grad_x.permute(0, 2, 3, 1), grad_weight
