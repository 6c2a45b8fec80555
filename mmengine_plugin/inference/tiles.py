"""Tiles of an image: large images are predicted piece by piece, in bounded memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

from backbones.errors import UserError

SIDE = 1024  # of the tiles of large images, in pixels, as for DOTA (arXiv 1711.10398)
LARGE = 2**26  # pixels of an image, above which it is predicted in tiles
SMALLEST = 64  # side of a tile, in pixels


@dataclass(frozen=True)
class Span:
    """The part of one axis of an image that a tile covers. All numbers are pixels of the image.

    Attributes:
        start: First pixel of the tile.
        stop: End of the tile.
        own_start: First pixel that lies deeper in this tile than in any other.
        own_stop: End of these pixels.
        cut_start: Whether the image goes on before the tile.
        cut_stop: Whether the image goes on after the tile.
    """

    start: int
    stop: int
    own_start: int
    own_stop: int
    cut_start: bool
    cut_stop: bool


@dataclass(frozen=True)
class Tile:
    """A part of an image.

    Attributes:
        rows: What the tile covers of the height.
        columns: What the tile covers of the width.
    """

    rows: Span
    columns: Span

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom in pixels of the image."""
        return self.columns.start, self.rows.start, self.columns.stop, self.rows.stop


def tiles_of(height: int, width: int, side: int | None) -> list[Tile]:
    """Cover an image with tiles of one size, which overlap by at least a quarter of their side.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        side: Height and width of a tile in pixels. With 0, one tile covers the image. With ``None``, tiles have
            :data:`SIDE` pixels if the image has more than :data:`LARGE`.

    Returns:
        The tiles, row by row. An image that is smaller than a tile has a single one.
    """
    if side is None:
        side = SIDE if height * width > LARGE else 0
    side = side or max(height, width)
    return [Tile(rows, columns) for rows in _spans(height, side) for columns in _spans(width, side)]


def check_side(side: int | None) -> None:
    """Raise a :class:`UserError` unless ``side`` can be the side of a tile, or is 0 or ``None``."""
    if side and side < SMALLEST:
        raise UserError(f'tile {side} must be 0 (the whole image) or at least {SMALLEST} pixels')


def _spans(length: int, side: int) -> list[Span]:
    """Cover one axis of an image. A pixel in an overlap belongs to the span whose end is farther away."""
    if length <= side:
        return [Span(0, length, 0, length, False, False)]
    overlap = side // 4
    count = math.ceil((length - overlap) / (side - overlap))
    starts = [round(i * (length - side) / (count - 1)) for i in range(count)]
    seams = [0, *((start + side + following) // 2 for start, following in zip(starts, starts[1:])), length]  # noqa: B905
    return [Span(start, start + side, seams[i], seams[i + 1], i > 0, i < count - 1) for i, start in enumerate(starts)]
