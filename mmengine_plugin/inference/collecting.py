"""The prediction of a whole image, collected tile by tile."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray

from .run_lengths import Runs, runs_of, union
from .tiles import Tile

SAME_OBJECT = 0.5  # intersection over union, as in COCO's evaluation at its lowest threshold
TOP = 5  # classes that are listed for a classified image
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Detection:
    """An object.

    Attributes:
        box: Left, top, right and bottom in pixels of the image.
        label: Index of the class.
        score: From 0 to 1.
        runs: The mask; ``None`` if the detector has none.
        is_cut: Whether the object reaches a border at which its tile ends but the image goes on.
    """

    box: Box
    label: int
    score: float
    runs: Runs | None
    is_cut: bool


class Detections:
    """The detections of an image.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        score_thr: Detections with a lower score are left out.
    """

    def __init__(self, height: int, width: int, score_thr: float) -> None:
        self.height, self.width, self.score_thr = height, width, score_thr
        self.tiles: list[tuple[Tile, list[Detection]]] = []

    def add(self, tile: Tile, sample: BaseDataElement) -> None:
        """Add the prediction of a tile, whose boxes and masks are in pixels of the tile."""
        found = sample.pred_instances.cpu()
        found = found[found.scores >= self.score_thr]
        left, top, _, _ = tile.box
        detections = []
        for i, (x1, y1, x2, y2) in enumerate(found.bboxes.tolist()):
            box = (x1 + left, y1 + top, x2 + left, y2 + top)
            runs = runs_of(found.masks[i].numpy(), left, top, self.height) if 'masks' in found else None
            detections.append(Detection(box, int(found.labels[i]), float(found.scores[i]), runs, _is_cut(box, tile)))
        self.tiles.append((tile, detections))

    def merged(self) -> list[Detection]:
        """The detections of all tiles, each object once; with several tiles, those with high scores come first.

        Two detections are one object if their tiles overlap, their classes are equal, and their boxes are alike within
        the overlap, or if one is a fragment at the border of its tile and lies in the other. Of such detections, the
        best one that is whole remains. If none is, the union of the boxes and masks replaces them.
        """
        if len(self.tiles) == 1:
            return self.tiles[0][1]
        groups = {id(one): [one] for _, found in self.tiles for one in found}
        for i, (tile, found) in enumerate(self.tiles):
            for other_tile, others in self.tiles[:i]:
                for one, other in _same_objects(tile, found, other_tile, others):
                    group, joined = groups[id(one)], groups[id(other)]
                    if group is not joined:
                        group += joined
                        groups.update((id(member), group) for member in joined)
        distinct = {id(group): group for group in groups.values()}
        return sorted(map(_one_of, distinct.values()), key=lambda one: -one.score)


class LabelMap:
    """The label map of an image.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        num_classes: Number of classes.

    Attributes:
        labels: ``(height, width)``, the index of the class of each pixel: uint8, or uint16 above 256 classes.
    """

    def __init__(self, height: int, width: int, num_classes: int) -> None:
        self.labels = np.zeros((height, width), np.uint8 if num_classes <= 256 else np.uint16)

    def add(self, tile: Tile, sample: BaseDataElement) -> None:
        """Add the prediction of a tile. Each pixel gets the label of the tile whose borders are farthest from it."""
        rows, columns = tile.rows, tile.columns
        own = sample.pred_sem_seg.data[
            0,
            rows.own_start - rows.start : rows.own_stop - rows.start,
            columns.own_start - columns.start : columns.own_stop - columns.start,
        ]
        self.labels[rows.own_start : rows.own_stop, columns.own_start : columns.own_stop] = own.cpu().numpy()

    def shares(self) -> NDArray[np.float64]:
        """The share of each class in the pixels, up to the highest label; counted in strips, to save memory."""
        counts = np.zeros(int(self.labels.max()) + 1, int)
        for start in range(0, len(self.labels), 256):
            counts += np.bincount(self.labels[start : start + 256].ravel(), minlength=len(counts))
        return counts / self.labels.size


class ClassScores:
    """The scores of an image's classes.

    Attributes:
        top: Index and score of the five classes with the highest scores, the best one first; of all if there are fewer.
    """

    def __init__(self) -> None:
        self.top: list[tuple[int, float]] = []

    def add(self, tile: Tile, sample: BaseDataElement) -> None:
        """Take the prediction of the only tile: an image is classified whole."""
        scores = sample.pred_scores.cpu()
        best = scores.topk(min(TOP, len(scores)))
        self.top = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def _is_cut(box: Box, tile: Tile) -> bool:
    """Whether a box reaches the border of a tile, where the image goes on. A 64th of the side is tolerated."""
    x1, y1, x2, y2 = box
    for start, stop, span in ((x1, x2, tile.columns), (y1, y2, tile.rows)):
        margin = (span.stop - span.start) / 64
        if (span.cut_start and start < span.start + margin) or (span.cut_stop and stop > span.stop - margin):
            return True
    return False


def _same_objects(
    tile: Tile, found: list[Detection], other_tile: Tile, others: list[Detection]
) -> list[tuple[Detection, Detection]]:
    """Pairs of detections of two tiles that are one object, at most one pair for each detection."""
    overlap = np.array([*np.maximum(tile.box, other_tile.box)[:2], *np.minimum(tile.box, other_tile.box)[2:]])
    if not found or not others or (overlap[:2] >= overlap[2:]).any():
        return []
    boxes, other_boxes = np.array([one.box for one in found])[:, None], np.array([one.box for one in others])[None]
    common = _areas(_intersection(boxes, other_boxes))
    seen, other_seen = _areas(_intersection(boxes, overlap)), _areas(_intersection(other_boxes, overlap))
    within = _areas(_intersection(_intersection(boxes, other_boxes), overlap))
    alike = within / np.maximum(seen + other_seen - within, 1e-9)
    for detections, areas in ((np.array([[one.is_cut] for one in found]), _areas(boxes)),
                              (np.array([[one.is_cut for one in others]]), _areas(other_boxes))):  # fmt: skip
        alike = np.maximum(alike, np.where(detections, common / np.maximum(areas, 1e-9), 0))
    alike[np.array([[one.label != other.label for other in others] for one in found])] = 0
    pairs = []
    while (best := np.unravel_index(alike.argmax(), alike.shape)) and alike[best] >= SAME_OBJECT:
        pairs.append((found[best[0]], others[best[1]]))
        alike[best[0]], alike[:, best[1]] = 0, 0
    return pairs


def _intersection(boxes: NDArray, others: NDArray) -> NDArray:
    """The boxes in which two arrays of boxes ``(..., 4)`` intersect; the right may lie left of the left."""
    return np.concatenate(
        [np.maximum(boxes[..., :2], others[..., :2]), np.minimum(boxes[..., 2:], others[..., 2:])], axis=-1
    )


def _areas(boxes: NDArray) -> NDArray:
    """The areas of boxes ``(..., 4)``, 0 if they are empty."""
    return np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0), axis=-1)


def _one_of(group: list[Detection]) -> Detection:
    """The detection that stands for all detections of one object."""
    best = max(group, key=lambda one: one.score)
    whole = [one for one in group if not one.is_cut]
    if whole:
        return replace(max(whole, key=lambda one: one.score), score=best.score)
    boxes = np.array([one.box for one in group])
    runs = None if best.runs is None else union([one.runs for one in group])
    return replace(best, box=(*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist()), runs=runs)
