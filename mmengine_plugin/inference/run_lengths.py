"""Masks as runs of pixels, which need memory for their outlines only.

A mask is a sorted array of the positions at which it changes: where a run of its pixels begins, where it ends, and so
on. Positions count the pixels of the whole image column by column, as COCO's run lengths do.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

Runs = NDArray[np.int64]


def runs_of(mask: NDArray[np.bool_], left: int, top: int, height: int) -> Runs:
    """Find the runs of a mask of a part of an image.

    Args:
        mask: ``(h, w)``, the mask of the part.
        left: First column of the part in the image.
        top: First row of the part in the image.
        height: Height of the image in pixels.
    """
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return np.zeros(0, np.int64)
    top, left = top + rows[0], left + columns[0]
    mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    changes = np.diff(np.pad(mask.T, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    columns, rows = np.nonzero(changes)  # a column begins and ends outside the mask, so each has an even number
    return _without_pairs((left + columns) * height + top + rows)


def union(masks: Sequence[Runs]) -> Runs:
    """The runs of the union of masks of one image."""
    positions = np.concatenate(masks)
    steps = np.concatenate([np.resize([1, -1], len(runs)) for runs in masks])
    order = np.lexsort((-steps, positions))  # where one run ends and another begins, the union goes on
    covered = np.cumsum(steps[order])
    before = np.concatenate([[0], covered[:-1]])
    return positions[order][(covered == 0) | (before == 0)]


def sampled(runs: Runs, height: int, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Read a mask at some rows and columns.

    Args:
        runs: The mask.
        height: Height of the image in pixels.
        rows: Rows of the image, in ascending order.
        columns: Columns of the image, in ascending order.

    Returns:
        The mask ``(len(rows), len(columns))`` at these pixels.
    """
    column, row = np.divmod(runs, height)
    place = np.searchsorted(columns, column)
    is_read = (place < len(columns)) & (columns[np.minimum(place, len(columns) - 1)] == column)
    positions = place * len(rows) + np.where(is_read, np.searchsorted(rows, row), 0)
    changes = np.zeros(len(rows) * len(columns) + 1, np.uint8)
    np.add.at(changes, positions, 1)
    inside = np.cumsum(changes[:-1], dtype=np.uint8) % 2  # overflow keeps the parity
    return inside.astype(bool).reshape(len(columns), len(rows)).T


def to_coco(runs: Runs, height: int, width: int) -> dict:
    """A mask as JSON in COCO's compressed run-length encoding."""
    counts = np.diff(runs, prepend=0, append=height * width).tolist()
    if counts[-1] == 0:  # the last run ends with the image
        counts.pop()
    encoded = coco_mask.frPyObjects(dict(size=[height, width], counts=counts), height, width)
    return dict(size=[height, width], counts=encoded['counts'].decode())


def _without_pairs(positions: Runs) -> Runs:
    """Drop positions at which one run ends and the next begins: the end of a column is the beginning of the next."""
    values, counts = np.unique(positions, return_counts=True)
    return values[counts == 1]
