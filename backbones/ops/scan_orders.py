"""How a map of ``H`` x ``W`` cells is read as a sequence, and a sequence restored to a map.

A recurrence sees one cell after the other, so visual Mambas read a map in several orders: VMamba by rows and columns
(arXiv 2401.10166, section 4.2), LocalMamba window by window too (arXiv 2403.09338), PlainMamba along a line that never
leaps (arXiv 2403.17695), each forwards and backwards.
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
    """What all orders share: maps of any size, dtype and device are read and restored, and so are gradients.

    A kind of order gives ``_read`` and ``_restore``, forwards; what can be a view is one.

    Args:
        backward: Read the whole sequence from its end.
    """

    backward: bool = False

    @property
    def reversed(self) -> Order:
        """The same order from its other end."""
        return dataclasses.replace(self, backward=not self.backward)

    def read(self, x: Tensor) -> Tensor:
        """A map ``(B, H, W, C)`` as a sequence ``(B, L, C)``; ``L = H * W``, or more where windows are padded."""
        y = self._read(x)
        return y.flip(1) if self.backward else y

    def restore(self, y: Tensor, height: int, width: int) -> Tensor:
        """A sequence ``(B, L, C)`` as the map ``(B, height, width, C)`` that it was read from: the inverse."""
        return self._restore(y.flip(1) if self.backward else y, height, width)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lines(Order):
    """Row by row from the top, each from the left; or column by column from the left, each from the top.

    Args:
        columns: Whether lines are columns.
    """

    columns: bool = False

    def _read(self, x: Tensor) -> Tensor:
        return self._turn(x.transpose(1, 2) if self.columns else x).flatten(1, 2)

    def _restore(self, y: Tensor, height: int, width: int) -> Tensor:
        if self.columns:
            return self._turn(y.unflatten(1, (width, height))).transpose(1, 2)
        return self._turn(y.unflatten(1, (height, width)))

    def _turn(self, lines: Tensor) -> Tensor:
        return lines


class Snake(Lines):
    """Line by line, every second one the other way: each cell is a neighbour of the one before it."""

    def _turn(self, lines: Tensor) -> Tensor:
        turned = lines.new_empty(lines.shape)  # contiguous, so that what is read is not copied again
        turned[:, ::2] = lines[:, ::2]
        turned[:, 1::2] = lines[:, 1::2].flip(2)
        return turned

    def directions(self, height: int, width: int) -> Tensor:
        """The step that led to each cell of the sequence, ``(L,)`` of dtype long.

        0 is the start, 1 a step to the right, 2 to the left, 3 up, 4 down, as PlainMamba numbers them.
        """
        lines, cells, forth, back, onward = (width, height, 4, 3, 1) if self.columns else (height, width, 1, 2, 4)
        steps = torch.full((lines, cells), forth)
        steps[1::2] = back
        steps[:, 0] = onward
        steps = steps.flatten()
        if self.backward:  # each step is undone, the last one first
            opposite = torch.tensor([0, 2, 1, 4, 3])
            steps = opposite[steps].roll(-1).flip(0)
        steps[0] = 0
        return steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows(Order):
    """Windows row by row, and row by row in each window.

    As in LocalMamba, zeros fill up the windows at the right and at the bottom. They are read like cells, first of all
    where the order is reversed, and are left out when a map is restored.

    Args:
        size: Cells along each side of a window.
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
        """Windows below and beside each other.

        Raises:
            UserError: For a map that is smaller than a window in either direction. LocalMamba pads it, but windows
                are then nothing but the map's columns or rows, with zeros in between.
        """
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
    """The order behind a config's name: one of ``ORDERS``, or windows of another size, like ``'windows4'``.

    Raises:
        UserError: For a name that does not exist, with the nearest one.
    """
    if match := re.fullmatch(r'windows([1-9]\d*)(_reversed)?', str(name)):
        return Windows(size=int(match[1]), backward=bool(match[2]))
    if str(name) not in ORDERS:
        raise UserError(f'unknown scan order {name!r}{did_you_mean(str(name), ORDERS)}; known: {", ".join(ORDERS)}')
    return ORDERS[name]
