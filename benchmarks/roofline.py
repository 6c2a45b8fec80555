"""The least time that operators need at the rates of this machine."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mmengine_plugin.compat.private_names import TorchDispatchMode, tree_leaves

from .measuring import CUDA, DEVICE, DTYPE, measure


@functools.cache
def rates() -> tuple[float, float]:
    """Measure operations per second in matrix products, and bytes per second that copies read and write."""
    size = 8192 if CUDA else 2048
    a, b = (torch.rand(size, size, device=DEVICE, dtype=DTYPE) for _ in range(2))
    source, target = (torch.rand(2**28 if CUDA else 2**26, device=DEVICE) for _ in range(2))
    product = measure({'': lambda: a @ b}, 10, 'matrix products')['']['seconds']
    copied = measure({'': lambda: target.copy_(source)}, 10, 'copies')['']['seconds']
    return 2 * size**3 / min(product), 2 * source.nbytes / min(copied)


class Roofline(TorchDispatchMode):
    """Adds up the least time of every operator that runs under it, in ``seconds``.

    An operator's least time is that of its operations or that of its inputs and outputs, whichever is longer, at the
    machine's :func:`rates`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def __torch_dispatch__(self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> object:
        formulas = {torch.ops.aten.convolution_backward: _conv_backward_operations}
        with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
            out = func(*args, **(kwargs or {}))
        if not func.is_view and 'empty' not in func.__name__:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            operations_rate, copy_rate = rates()
            moved = sum(tensor.nbytes for tensor in tensors)
            self.seconds += max(counter.get_total_flops() / operations_rate, moved / copy_rate)
        return out


def _conv_backward_operations(grad: tuple, x: tuple, weight: tuple, *args, out_shape: tuple, **kwargs) -> int:
    """Count the operations of a convolution's gradients; PyTorch's formula takes a depthwise one for a dense one."""
    computed = sum(shape is not None for shape in out_shape[:2])
    return 2 * computed * int(np.prod(weight)) * int(np.prod(grad)) // grad[1]
