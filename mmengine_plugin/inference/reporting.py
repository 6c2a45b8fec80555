"""The picture of the prediction of an image, and what JSON files say of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from .collecting import ClassScores, Detections, LabelMap
from .overlays import Color, draw_detections, draw_labels, with_legend
from .run_lengths import to_coco

LONGEST_NAME = 60  # letters of a class in the legend of a classifier's picture; a few names of ImageNet have over 100


def report_detections(
    picture: Image.Image, result: Detections, classes: Sequence[str], palette: Sequence[Color]
) -> tuple[Image.Image, list[dict]]:
    """The picture of a detector's prediction, and the prediction in COCO's results format."""
    found, shape = result.merged(), (result.height, result.width)
    entries = []
    for one in found:
        x1, y1, x2, y2 = one.box
        entry = dict(category_id=one.label + 1, category_name=classes[one.label], score=one.score)
        entry['bbox'] = [x1, y1, x2 - x1, y2 - y1]
        if one.runs is not None:
            entry['segmentation'] = to_coco(one.runs, *shape)
        entries.append(entry)
    return draw_detections(picture, found, shape, classes, palette), entries


def report_labels(
    picture: Image.Image, result: LabelMap, classes: Sequence[str], palette: Sequence[Color]
) -> tuple[Image.Image, dict[str, float]]:
    """The picture of a segmentor's prediction, and each class's share of its pixels."""
    shares = result.shares()
    present = [label for label in np.argsort(-shares) if shares[label]]
    legend = [(palette[label], f'{classes[label]} {shares[label]:.1%}') for label in present]
    picture = draw_labels(picture, result, palette, legend)
    return picture, {classes[label]: round(shares[label], 6) for label in present}


def report_classes(
    picture: Image.Image, result: ClassScores, classes: Sequence[str], palette: Sequence[Color]
) -> tuple[Image.Image, list[dict]]:
    """The picture of a classifier's prediction, and the classes with the highest scores."""
    top = [dict(label=label, name=classes[label], score=score) for label, score in result.top]
    legend = [(palette[one['label']], f'{_shortened(one["name"])} {one["score"]:.1%}') for one in top]
    return with_legend(picture, legend), top


def _shortened(name: str) -> str:
    """A name as a legend has room for it."""
    return name if len(name) <= LONGEST_NAME else f'{name[: LONGEST_NAME - 3].rstrip(" ,")}...'
