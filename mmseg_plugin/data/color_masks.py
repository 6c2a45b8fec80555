"""Masks that show each class in a colour of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from backbones.errors import UserError

RGB = tuple[int, int, int]
IGNORED = 255  # the label that losses and scores leave out
NO_CLASS = 254  # a label that is refused; no data set has so many classes


def colors_to_indices(pixels: np.ndarray, colors: Sequence[RGB], ignored: Sequence[RGB] = ()) -> np.ndarray:
    """Replace each colour of a mask by the index of its class.

    Args:
        pixels: ``(H, W, 3)``, uint8, in the order red, green, blue.
        colors: Colour of each class, at most 254.
        ignored: Colours that belong to no class and become 255, such as the border of VOC's objects.

    Returns:
        ``(H, W)``, uint8: the position of the pixel's colour in ``colors``, or 255.

    Raises:
        UserError: If the mask has another colour. The message names the colour that the most pixels have.
    """
    packed = pack_colors(pixels)
    labels = _lookup_table(tuple(map(tuple, colors)), tuple(map(tuple, ignored))).take(packed)
    strange = packed[labels == NO_CLASS]
    if len(strange):
        found, counts = np.unique(strange, return_counts=True)
        others = f', and {len(found) - 1} more unknown colours' if len(found) > 1 else ''
        raise UserError(
            f'{counts.max()} pixels have the colour {unpack_color(found[counts.argmax()])}, which belongs to no class'
            f'{others}'
        )
    return labels


def pack_colors(pixels: np.ndarray) -> np.ndarray:
    """Turn ``(H, W, 3)`` RGB pixels, uint8, into ``(H, W)`` numbers ``0xRRGGBB``, int32."""
    return cv2.cvtColor(pixels, cv2.COLOR_RGB2BGRA).view('<i4')[..., 0] & 0xFFFFFF  # alpha is the highest byte


def unpack_color(packed: int) -> RGB:
    """Turn a number ``0xRRGGBB`` into a colour."""
    red, green, blue = int(packed).to_bytes(3, 'big')
    return red, green, blue


def read_labelmap(path: str | Path) -> dict[str, RGB]:
    """Read the ``labelmap.txt`` that CVAT writes beside masks in the format of Pascal VOC.

    Args:
        path: The file. Its lines are ``name:red,green,blue:parts:actions``; those that begin with ``#`` are comments.

    Returns:
        The colour of each class, in the order of the file.

    Raises:
        UserError: If a line has no name and colour, or if two classes share a name or a colour.
    """
    colors: dict[str, RGB] = {}
    for number, line in enumerate(Path(path).read_text(encoding='utf-8-sig').splitlines(), 1):
        if not line.strip() or line.startswith('#'):
            continue
        name, _, rest = line.partition(':')
        parts = rest.split(':')[0].split(',')
        if not all(part.strip().isdecimal() and int(part) < 256 for part in parts) or len(parts) != 3:
            raise UserError(f'{path}, line {number}: {line!r} is not of the kind name:red,green,blue::')
        red, green, blue = map(int, parts)
        if name in colors or (red, green, blue) in colors.values():
            raise UserError(f'{path}, line {number}: two classes have the name {name!r} or the colour {parts}')
        colors[name] = red, green, blue
    return colors


@lru_cache(maxsize=4)
def _lookup_table(colors: tuple[RGB, ...], ignored: tuple[RGB, ...]) -> np.ndarray:
    """The label of each of the 2**24 colours, uint8, 16 MB; a table is several times as fast as a search."""
    table = np.full(1 << 24, NO_CLASS, np.uint8)
    for red, green, blue in ignored:
        table[red << 16 | green << 8 | blue] = IGNORED
    for label, (red, green, blue) in enumerate(colors):
        table[red << 16 | green << 8 | blue] = label
    return table
