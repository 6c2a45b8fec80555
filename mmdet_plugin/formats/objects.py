"""Labelled objects, made from boxes, polygons and masks. Coordinates are pixels; an image begins at (0, 0)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as rle

from backbones.errors import UserError

from ..data.masks import area_of

Size = tuple[int, int]  # (height, width) of an image
Point = tuple[float, float]


@dataclass
class Object:
    """An object in an image.

    Attributes:
        category: Name of its class.
        box: Left, top, width and height.
        area: Area of its polygons, number of pixels of its run-length mask, or area of its box if it has no mask.
        segmentation: Polygons ``[[x1, y1, x2, y2, ...], ...]``, a run-length mask of pycocotools, or None.
        crowd: Whether training and scores ignore it.
    """

    category: str
    box: tuple[float, float, float, float]
    area: float
    segmentation: list[list[float]] | dict | None = None
    crowd: bool = False


def from_box(category: str, corners: Sequence[float], size: Size) -> Object:
    """An object with a box, of which the part inside the image is kept.

    Args:
        category: Name of its class.
        corners: x and y of two opposite corners.
        size: Size of the image.

    Raises:
        UserError: If the whole box lies outside the image.
    """
    height, width = size
    (left, right), (top, bottom) = sorted(corners[0::2]), sorted(corners[1::2])
    if left > width or right < 0 or top > height or bottom < 0:
        raise _outside([left, top, right, bottom], size)
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    return Object(category, (left, top, right - left, bottom - top), (right - left) * (bottom - top))


def from_polygon(category: str, points: Sequence[Point], size: Size, holes: Sequence[Sequence[Point]] = ()) -> Object:
    """An object with one polygon as its mask.

    A polygon inside the image stays exactly as it is. One with holes becomes a run-length mask, since COCO's polygons
    have none.

    Args:
        category: Name of its class.
        points: The corners, three or more.
        size: Size of the image.
        holes: Polygons that are cut out.

    Raises:
        UserError: If there are fewer than three points, or all lie outside the image.
    """
    points = _inside(points, size)
    if holes:
        mask = _draw([points], size)
        for hole in holes:
            mask &= ~_draw([_inside(hole, size)], size)
        return from_mask(category, mask, (0, 0), size)
    xs, ys = zip(*points, strict=True)
    polygon = [coordinate for point in points for coordinate in point]
    box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
    return Object(category, box, area_of([polygon]), [polygon])


def from_ellipse(category: str, center: Point, radii: Point, degrees: float, size: Size) -> Object:
    """An object with an ellipse as its mask: a polygon that deviates by less than a tenth of a pixel.

    Args:
        category: Name of its class.
        center: x and y of the centre.
        radii: Half the width and half the height, before the turn.
        degrees: Clockwise turn about the centre.
        size: Size of the image.
    """
    sides = 4 * math.ceil(math.pi / 4 / math.acos(1 - 0.1 / max(*radii, 1)))  # a quarter of the corners per quadrant
    angles = [2 * math.pi * i / sides for i in range(sides)]
    points = [(radii[0] * math.cos(a), radii[1] * math.sin(a)) for a in angles]
    return from_polygon(category, turn(points, center, degrees), size)


def turn(points: Sequence[Point], center: Point, degrees: float) -> list[Point]:
    """Turn points clockwise about the origin, and move the origin to ``center``; y points downwards."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return [(center[0] + x * cos - y * sin, center[1] + x * sin + y * cos) for x, y in points]


def from_mask(category: str, mask: np.ndarray, offset: tuple[int, int], size: Size) -> Object:
    """An object with a mask of pixels.

    Args:
        category: Name of its class.
        mask: ``(H, W)``; pixels of the object are not 0.
        offset: x and y of the mask's top left pixel in the image.
        size: Size of the image.

    Raises:
        UserError: If the mask does not fit into the image.
    """
    (left, top), (height, width) = offset, mask.shape
    if left < 0 or top < 0 or left + width > size[1] or top + height > size[0]:
        raise _outside([left, top, left + width, top + height], size)
    pixels = np.zeros(size, np.uint8, order='F')
    pixels[top : top + height, left : left + width] = mask != 0
    return _from_runs(category, rle.encode(pixels))


def join(parts: Sequence[Object], size: Size) -> Object:
    """One object of several parts in an image of this size. It has a mask if all parts have one."""
    if len(parts) == 1:
        return parts[0]
    first, masks = parts[0], [part.segmentation for part in parts]
    left, top = min(part.box[0] for part in parts), min(part.box[1] for part in parts)
    right = max(part.box[0] + part.box[2] for part in parts)
    bottom = max(part.box[1] + part.box[3] for part in parts)
    box = (left, top, right - left, bottom - top)
    if None in masks:
        return Object(first.category, box, box[2] * box[3])
    if all(isinstance(mask, list) for mask in masks):
        polygons = [polygon for mask in masks for polygon in mask]
        return Object(first.category, box, area_of(polygons), polygons)
    runs = [mask if isinstance(mask, dict) else rle.merge(rle.frPyObjects(mask, *size)) for mask in masks]
    return _from_runs(first.category, rle.merge(runs))


def rectangle_as_mask(part: Object, size: Size) -> Object:
    """The object with the rectangle of its box as its mask."""
    x, y, w, h = part.box
    if part.crowd:  # COCO writes the masks of crowds as run lengths
        mask = _draw([[(x, y), (x + w, y), (x + w, y + h), (x, y + h)]], size)
        return Object(part.category, part.box, part.area, from_mask('', mask, (0, 0), size).segmentation, True)
    return Object(part.category, part.box, part.area, [[x, y, x + w, y, x + w, y + h, x, y + h]])


def _from_runs(category: str, runs: dict) -> Object:
    """An object with pycocotools' run-length mask."""
    segmentation = dict(size=list(runs['size']), counts=runs['counts'].decode())
    return Object(category, tuple(rle.toBbox(runs).tolist()), int(rle.area(runs)), segmentation)


def _draw(polygons: Sequence[Sequence[Point]], size: Size) -> np.ndarray:
    """The pixels of polygons as pycocotools draws them, ``(H, W)``, bool."""
    flat = [np.asarray(points, float).ravel().tolist() for points in polygons]
    return rle.decode(rle.merge(rle.frPyObjects(flat, *size))).astype(bool)


def _inside(points: Sequence[Point], size: Size) -> list[Point]:
    """Cut a polygon off at the borders of its image (Sutherland and Hodgman, 1974)."""
    if len(points) < 3:
        raise UserError(f'a polygon needs three points or more, and this has {len(points)}')
    kept = [(x, y) for x, y in points]
    height, width = size
    for axis, border, sign in ((0, 0, 1), (0, width, -1), (1, 0, 1), (1, height, -1)):
        before, kept = kept, []
        for start, end in zip(before[-1:] + before[:-1], before, strict=True):
            start_in, end_in = sign * (start[axis] - border) >= 0, sign * (end[axis] - border) >= 0
            if start_in != end_in:
                share = (border - start[axis]) / (end[axis] - start[axis])
                other = start[1 - axis] + share * (end[1 - axis] - start[1 - axis])
                kept.append((border, other) if axis == 0 else (other, border))
            if end_in:
                kept.append(end)
    if len(kept) < 3:
        xs, ys = zip(*points, strict=True)
        raise _outside([min(xs), min(ys), max(xs), max(ys)], size)
    return kept


def _outside(corners: list[float], size: Size) -> UserError:
    return UserError(f'it reaches from {corners[:2]} to {corners[2:]}, outside its image of {size[1]}x{size[0]} pixels')
