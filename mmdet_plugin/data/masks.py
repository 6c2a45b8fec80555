"""Masks as COCO's format stores them: polygons, or run lengths."""

import math
from numbers import Real

from pycocotools import mask as rle


def are_numbers(values: list) -> bool:
    """Whether all values are finite numbers."""
    return all(isinstance(value, Real) and math.isfinite(value) for value in values)


def is_box(box: object) -> bool:
    """Whether a value has the type of a box: a list of four numbers. Its width and height may be negative."""
    return isinstance(box, list) and len(box) == 4 and are_numbers(box)


def is_polygon(polygon: object) -> bool:
    """Whether a value is a list ``[x1, y1, x2, y2, ...]`` of three or more points."""
    return isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 and are_numbers(polygon)


def has_mask(mask: object) -> bool:
    """Whether training can use a mask: mmdet ignores objects without a polygon of three points or run lengths."""
    if isinstance(mask, list):
        return any(isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 for polygon in mask)
    return isinstance(mask, dict) and isinstance(mask.get('counts'), list | str) and bool(mask.get('size'))


def box_of(mask: object) -> list[float] | None:
    """The box ``[x, y, width, height]`` around a mask in pixels, or ``None`` if the mask is invalid or empty."""
    if isinstance(mask, list):
        polygons = [polygon for polygon in mask if is_polygon(polygon)]
        if not polygons:
            return None
        xs = [x for polygon in polygons for x in polygon[0::2]]
        ys = [y for polygon in polygons for y in polygon[1::2]]
        return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    encoded = _encoded(mask)
    return rle.toBbox(encoded).tolist() if encoded and rle.area(encoded) else None


def area_of(mask: object) -> float | None:
    """The area of a mask in pixels, or ``None`` if the mask is invalid.

    The area of polygons is the sum of the areas that they enclose, as in COCO's own files.
    """
    if isinstance(mask, list):
        polygons = [polygon for polygon in mask if is_polygon(polygon)]
        return sum(map(_polygon_area, polygons)) if polygons else None
    encoded = _encoded(mask)
    return float(rle.area(encoded)) if encoded else None


def _polygon_area(polygon: list[float]) -> float:
    """The enclosed area, by the shoelace formula."""
    xs, ys = polygon[0::2], polygon[1::2]
    return abs(sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))) / 2


def _encoded(mask: object) -> dict | None:
    """Run lengths as pycocotools reads them, or ``None`` if they are invalid."""
    if not is_run_lengths(mask):
        return None
    return rle.frPyObjects(mask, *mask['size']) if isinstance(mask['counts'], list) else mask


def is_run_lengths(mask: object) -> bool:
    """Whether a value is a dict of a size (height, width) and of run lengths that cover this size exactly.

    If run lengths end too early, pycocotools fills the rest of the mask with whatever is in memory.
    """
    if not isinstance(mask, dict) or not isinstance(mask.get('size'), list) or len(mask['size']) != 2:
        return False
    size, counts = mask['size'], mask.get('counts')
    if isinstance(counts, str):
        counts = _decode(counts)
    if not isinstance(counts, list) or not all(isinstance(number, int) and number >= 0 for number in [*size, *counts]):
        return False
    return sum(counts) == math.prod(size)


def _decode(counts: str) -> list[int] | None:
    """Decode the run lengths in a string of pycocotools; None if the string ends within a number.

    A character holds 5 bits of a number, the lowest bits first, and a sixth bit that is set if the next character
    continues the number. From the fourth number on, each is stored as the difference from the number two
    places before it.
    """
    runs, run, bits = [], 0, 0
    for character in counts.encode():
        character -= 48
        run |= (character & 31) << bits
        bits += 5
        if not character & 32:
            run -= (character & 16) << bits - 4  # the highest bit is the sign
            runs.append(run + runs[-2] if len(runs) > 2 else run)
            run = bits = 0
    return None if bits else runs
