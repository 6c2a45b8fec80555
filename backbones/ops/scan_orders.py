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
        turned = lines.new_empty(lines.shape)  # contiguous, so that flatten does not copy again
        turned[:, ::2] = lines[:, ::2]
        turned[:, 1::2] = lines[:, 1::2].flip(2)
        return turned

    def directions(self, height: int, width: int) -> Tensor:
        """The direction of the step to each cell of the sequence, ``(L,)`` of dtype long.

        The numbers are PlainMamba's: 0 for the first cell, 1 for right, 2 for left, 3 for up, 4 for down.
        """
        lines, cells, forth, back, onward = (width, height, 4, 3, 1) if self.columns else (height, width, 1, 2, 4)
        steps = torch.full((lines, cells), forth)
        steps[1::2] = back
        steps[:, 0] = onward
        steps = steps.flatten()
        if self.backward:  # the opposite of each step, from the last one to the first
            opposite = torch.tensor([0, 2, 1, 4, 3])
            steps = opposite[steps].roll(-1).flip(0)
        steps[0] = 0
        return steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows(Order):
    """Windows row by row, and the cells of each window row by row.

    As in LocalMamba, windows at the right and at the bottom are padded with zeros. The zeros are read like cells, first
    of all in a backward order, and dropped when a map is restored.

    Args:
        size: Cells along each side of a window.
        backward: Whether the whole sequence is read from its end.

    Raises:
        UserError: When a map smaller than a window is read or restored. LocalMamba pads such maps, but the order is
            then simply that of rows or columns, with zeros in between.
    """

    size: int

    def _read(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        rows, columns = self._counts(height, width)
        bottom, right = rows * self.size - height, columns * self.size - width
        if bottom or right:
            x = F.pad(x, (0, 0, 0, right, 0, bottom))
        return x.unflatten(2, (columns, self.size)).unflatten(1, (rows, self.size)).transpose(2, 3).flatten(1, 4)

    def _restore(self, y: Tensor, height: int, width: int) -> Tensor:
        rows, columns = self._counts(height, width)
        windows = y.unflatten(1, (rows, columns, self.size, self.size))
        return windows.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :height, :width]

    def _counts(self, height: int, width: int) -> tuple[int, int]:
        """Number of rows and columns of windows."""
        if min(height, width) < self.size:
            raise UserError(
                f"scan order 'windows{self.size}': a map of {height}x{width} cells is smaller than a window; "
                'choose smaller windows or larger images'
            )
        return -(-height // self.size), -(-width // self.size)


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
