"""Scan orders: how a map of ``H`` x ``W`` cells is read as a sequence, and restored from one.

A recurrence sees one cell after the other, so visual Mambas read a map in several orders, each forwards and backwards:
VMamba by rows and by columns (arXiv 2401.10166, section 4.2), LocalMamba also window by window (arXiv 2403.09338),
PlainMamba along a snake through neighbouring cells (arXiv 2403.17695).
"""

from __future__ import annotations

import dataclasses
import re

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UserError, did_you_mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """Base class of scan orders, for maps of any size, dtype and device; gradients are supported.

    A subclass defines ``_read`` and ``_restore`` for the forward direction. Results are views where possible.

    Args:
        backward: Whether the whole sequence is read from its end.
    """

    backward: bool = False

    @property
    def code(self) -> int | None:
        """Number by which Triton's kernels know the order; ``None`` if they cannot read it in the map itself."""
        return None

    @property
    def reversed(self) -> Order:
        """The same order in the other direction."""
        return dataclasses.replace(self, backward=not self.backward)

    def read(self, x: Tensor) -> Tensor:
        """Read a map ``(B, H, W, C)`` as a sequence ``(B, L, C)``; ``L = H * W``, or more if windows are padded."""
        y = self._read(x)
        return y.flip(1) if self.backward else y

    def restore(self, y: Tensor, height: int, width: int) -> Tensor:
        """Restore the map ``(B, height, width, C)`` from a sequence ``(B, L, C)``: the inverse of :meth:`read`."""
        return self._restore(y.flip(1) if self.backward else y, height, width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lines(Order):
    """Row by row from the top, each row from the left; or column by column from the left, each from the top.

    Args:
        columns: Whether the lines are columns.
        backward: Whether the whole sequence is read from its end.
    """

    columns: bool = False

    @property
    def code(self) -> int | None:
        """Number by which Triton's kernels know the order: 1 for columns, and 2 more for the backward direction."""
        return self.columns + 2 * self.backward

    def _read(self, x: Tensor) -> Tensor:
        return self._turn(x.transpose(1, 2) if self.columns else x).flatten(1, 2)

    def _restore(self, y: Tensor, height: int, width: int) -> Tensor:
        if self.columns:
            return self._turn(y.unflatten(1, (width, height))).transpose(1, 2)
        return self._turn(y.unflatten(1, (height, width)))

    def _turn(self, lines: Tensor) -> Tensor:
        return lines


class Snake(Lines):
    """Line by line, with every second line reversed, so that consecutive cells are neighbours in the map."""

    code = None

    def _turn(self, lines: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # for any number of lines, the compiler handles this form much faster
            odd = torch.arange(lines.shape[1], device=lines.device) % 2 == 1
            return torch.where(odd[:, None, None], lines.flip(2), lines)
        turned = lines.new_empty(lines.shape)  # contiguous, so that flatten does not copy again
        turned[:, ::2] = lines[:, ::2]
        turned[:, 1::2] = lines[:, 1::2].flip(2)
        return turned

    def directions(self, height: int, width: int, device: torch.device | str | None = None) -> Tensor:
        """The direction of the step to each cell of the sequence, ``(L,)`` of dtype long.

        The numbers are PlainMamba's: 0 for the first cell, 1 for right, 2 for left, 3 for up, 4 for down.

        Args:
            height: Rows of the map.
            width: Columns of the map.
            device: Device of the result; ``None`` for PyTorch's default.
        """
        lines, cells, forth, back, onward = (width, height, 4, 3, 1) if self.columns else (height, width, 1, 2, 4)
        number = torch.arange(lines * cells, device=device)
        if self.backward:  # the opposites of the steps to the cells after it, from the last one to the first
            forth, back = back, forth
            onward += 1 if onward % 2 else -1  # 1 and 2, like 3 and 4, are opposite
            number = lines * cells - number
        steps = number // cells % 2 * (back - forth) + forth
        return steps.masked_fill(number % cells == 0, onward).masked_fill(number % (lines * cells) == 0, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows(Order):
    """Windows row by row, and the cells of each window row by row.

    As in LocalMamba, windows at the right and at the bottom are padded with zeros. The zeros are read like cells, first
    of all in a backward order, and dropped when a map is restored. A map smaller than a window is one padded window:
    its order is that of rows, with zeros in between.

    Args:
        size: Cells along each side of a window.
        backward: Whether the whole sequence is read from its end.
    """

    size: int

    def _read(self, x: Tensor) -> Tensor:
        return (read_windows if torch.compiler.is_compiling() else _read_windows)(x, self.size)

    def _restore(self, y: Tensor, height: int, width: int) -> Tensor:
        restore = restore_windows if torch.compiler.is_compiling() else _restore_windows
        return restore(y, self.size, height, width)


def _read_windows(x: Tensor, size: int) -> Tensor:
    bottom, right = -x.shape[1] % size, -x.shape[2] % size
    if bottom or right:
        x = F.pad(x, (0, 0, 0, right, 0, bottom))
    return x.unflatten(2, (-1, size)).unflatten(1, (-1, size)).transpose(2, 3).flatten(1, 4)


def _restore_windows(y: Tensor, size: int, height: int, width: int) -> Tensor:
    windows = y.unflatten(1, (-(-height // size), -(-width // size), size, size))
    return windows.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :height, :width]


# As operators, both are opaque to the compiler, which otherwise takes minutes to prove that windows fill a map of any
# size. Each is the gradient of the other, because padding is restored to nothing.
@torch.library.custom_op('mambaout::read_windows', mutates_args=())
def read_windows(x: Tensor, size: int) -> Tensor:
    """Read a map ``(B, H, W, C)`` window by window, ``(B, L, C)``."""
    return _read_windows(x, size).clone(memory_format=torch.contiguous_format)  # an operator returns no view


@torch.library.custom_op('mambaout::restore_windows', mutates_args=())
def restore_windows(y: Tensor, size: int, height: int, width: int) -> Tensor:
    """Restore a map ``(B, height, width, C)`` from a sequence ``(B, L, C)``: the inverse of :func:`read_windows`."""
    return _restore_windows(y, size, height, width).clone(memory_format=torch.contiguous_format)


@read_windows.register_fake
def _(x: Tensor, size: int) -> Tensor:
    batch, height, width, channels = x.shape
    return x.new_empty(batch, -(-height // size) * -(-width // size) * size**2, channels)


@restore_windows.register_fake
def _(y: Tensor, size: int, height: int, width: int) -> Tensor:
    return y.new_empty(len(y), height, width, y.shape[2])


def _setup_reading(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    x, ctx.size = inputs
    ctx.height, ctx.width = x.shape[1:3]


def _setup_restoring(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: Tensor) -> None:
    ctx.size = inputs[1]


read_windows.register_autograd(
    lambda ctx, grad: (restore_windows(grad, ctx.size, ctx.height, ctx.width), None), setup_context=_setup_reading
)
restore_windows.register_autograd(
    lambda ctx, grad: (read_windows(grad, ctx.size), None, None, None), setup_context=_setup_restoring
)


ORDERS: dict[str, Order] = dict(
    rows=Lines(),
    columns=Lines(columns=True),
    windows2=Windows(size=2),
    windows7=Windows(size=7),
    snake_rows=Snake(),
    snake_columns=Snake(columns=True),
)
ORDERS |= {f'{name}_reversed': order.reversed for name, order in ORDERS.items()}


def get_order(name: str) -> Order:
    """Look up a scan order by the name in a config.

    Args:
        name: A key of ``ORDERS``, or a name like ``'windows4'`` or ``'windows4_reversed'`` for windows of another size.

    Raises:
        UserError: If the name is unknown. The message suggests the nearest one.
    """
    if match := re.fullmatch(r'windows([1-9]\d*)(_reversed)?', str(name)):
        return Windows(size=int(match[1]), backward=bool(match[2]))
    if str(name) not in ORDERS:
        raise UserError(f'unknown scan order {name!r}{did_you_mean(str(name), ORDERS)}; known: {", ".join(ORDERS)}')
    return ORDERS[name]
