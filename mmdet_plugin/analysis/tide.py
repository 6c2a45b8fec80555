"""TIDE's kinds of errors of a detector, and what each costs in AP.

Bolya et al., TIDE: A General Toolbox for Identifying Object Detection Errors, ECCV 2020, arXiv:2008.08115. Counts and
dAP equal those of the authors' program, with one exception: a class without objects is left out of the mean AP, as in
COCO's evaluation. The authors' program counts its AP as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

FOREGROUND = 0.5  # t_f of section 2.2
BACKGROUND = 0.1  # t_b of section 2.2
MAX_DETECTIONS = 100  # in an image, as in COCO's evaluation
# section 2.2; a detection has the first kind that fits, in the order Localization, Classification, Duplicate,
# Background, Both
CLASSIFICATION, LOCALIZATION, BOTH, DUPLICATE, BACKGROUND_ERROR, MISSED = range(6)
KINDS = ('Classification', 'Localization', 'Both', 'Duplicate', 'Background', 'Missed')


@dataclass
class Matches:
    """Detections matched with the objects of one image or of many. D detections and G objects.

    Attributes:
        scores: (D,) float64, falling within an image.
        labels: (D,) int64, predicted classes.
        objects: (D,) int64, the object that a detection found; -1 for none.
        ignored: (D,) bool. The detection found nothing and lies within a crowd, so that it does not count in AP.
        kinds: (D,) int64, the index of its error in :data:`KINDS`; -1 for a detection that found an object.
        targets: (D,) int64, the object that the detection would find without its error of classification or
            localization; -1 for none.
        fixes: (D,) bool. The detection is the one of the highest score for an object that no detection found.
        detection_images: (D,) int64, the image of each detection.
        truth: (G,) int64, true classes.
        found: (G,) bool. A detection found the object.
        missed: (G,) bool. No detection found the object, and none would without its error.
        truth_images: (G,) int64, the image of each object.
    """

    scores: np.ndarray
    labels: np.ndarray
    objects: np.ndarray
    ignored: np.ndarray
    kinds: np.ndarray
    targets: np.ndarray
    fixes: np.ndarray
    detection_images: np.ndarray
    truth: np.ndarray
    found: np.ndarray
    missed: np.ndarray
    truth_images: np.ndarray


def match_image(
    scores: np.ndarray,
    labels: np.ndarray,
    truth: np.ndarray,
    iou: np.ndarray,
    crowds: np.ndarray,
    crowd_iou: np.ndarray,
    image: int = 0,
) -> Matches:
    """Match the detections of an image with its objects, and name the error of each detection.

    Args:
        scores: (D,), falling.
        labels: (D,), predicted classes.
        truth: (G,), classes of the objects.
        iou: (D, G), intersection over union.
        crowds: (R,), classes of the crowds.
        crowd_iou: (D, R), the share of a detection that lies within a crowd.
        image: Index of the image.

    Returns:
        The matches of this image.
    """
    same = labels[:, None] == truth
    iou_same, iou_other = iou * same, iou * ~same
    # in the order of the scores, each detection takes the free object of its class that it fits best
    objects, free = np.full(len(labels), -1), iou_same.copy()
    for detection in np.flatnonzero(_best(iou_same) >= FOREGROUND):
        candidate = free[detection].argmax()
        if free[detection, candidate] >= FOREGROUND:
            objects[detection] = candidate
            free[:, candidate] = 0
    found = np.isin(np.arange(len(truth)), objects)
    in_crowd = ((crowd_iou > FOREGROUND) & (labels[:, None] == crowds)).any(1)

    conditions = {
        LOCALIZATION: (_best(iou_same) >= BACKGROUND) & (_best(iou_same) <= FOREGROUND),
        CLASSIFICATION: _best(iou_other) >= FOREGROUND,
        DUPLICATE: _best(iou_same * found) >= FOREGROUND,
        BACKGROUND_ERROR: _best(iou) <= BACKGROUND,
    }
    kinds = np.select(list(conditions.values()), list(conditions), BOTH)
    kinds[objects >= 0] = -1
    targets = np.full(len(labels), -1)
    if len(truth):
        for kind, overlap in ((LOCALIZATION, iou_same), (CLASSIFICATION, iou_other)):
            targets[kinds == kind] = overlap[kinds == kind].argmax(1)
    # of several detections with the same target, only the first can be mended (section 2.3)
    candidates = np.flatnonzero(targets >= 0)
    candidates = candidates[~found[targets[candidates]]]
    mendable, first = np.unique(targets[candidates], return_index=True)
    fixes = np.isin(np.arange(len(labels)), candidates[first])
    missed = ~found
    missed[mendable] = False
    return Matches(
        scores=np.asarray(scores, np.float64),
        labels=labels,
        objects=objects,
        ignored=(objects < 0) & in_crowd,
        kinds=kinds,
        targets=targets,
        fixes=fixes,
        detection_images=np.full(len(labels), image),
        truth=truth,
        found=found,
        missed=missed,
        truth_images=np.full(len(truth), image),
    )


def concatenate(images: Sequence[Matches]) -> Matches:
    """Put the matches of several images into one; the indices of objects then count over all images."""
    start = np.cumsum([0, *(len(image.truth) for image in images)])
    columns = {field.name: [getattr(image, field.name) for image in images] for field in fields(Matches)}
    for name in ('objects', 'targets'):
        columns[name] = [
            np.where(part >= 0, part + first, -1) for part, first in zip(columns[name], start[:-1], strict=True)
        ]
    return Matches(**{name: np.concatenate(parts) for name, parts in columns.items()})


def error_costs(matches: Matches, num_classes: int) -> dict[str, float]:
    """Compute AP50 and the dAP of each kind of error: by how much AP50 rises if errors of this kind alone are mended.

    A classification or localization error becomes a correct detection; if its object was found by another one, it is
    removed. The other false detections are removed. Missed objects are taken out of the truth (section 2.3). The dAP of
    false positives is that of moving all of them behind the correct detections. The dAP of false negatives is that of
    taking all objects out of the truth that were not found.

    Args:
        matches: Matches of all images.
        num_classes: Number of classes.

    Returns:
        Points from 0 to 100: ``'AP50'``, each of :data:`KINDS`, ``'False positives'`` and ``'False negatives'``.
    """
    correct, counted = matches.objects >= 0, ~matches.ignored
    objects = np.bincount(matches.truth, minlength=num_classes)
    in_truth = objects > 0

    def points(labels: np.ndarray, scores: np.ndarray, right: np.ndarray, kept: np.ndarray, total: np.ndarray) -> float:
        ap = average_precisions(labels[kept], scores[kept], right[kept], total)
        empty = (total == 0) & (np.bincount(labels[kept], minlength=num_classes) == 0)
        averaged = ap[in_truth & ~empty]
        return 100 * float(averaged.mean()) if len(averaged) else 0.0

    base = points(matches.labels, matches.scores, correct, counted, objects)
    costs = {'AP50': base}
    for kind, name in enumerate(KINDS):
        labels, right, kept, total = matches.labels, correct, counted, objects
        if kind == MISSED:
            total = objects - np.bincount(matches.truth[matches.missed], minlength=num_classes)
        else:
            of_kind = matches.kinds == kind
            mended = of_kind & matches.fixes
            labels = np.where(mended, np.append(matches.truth, -1)[matches.targets], labels)
            right = correct | mended
            kept = (counted & ~of_kind) | mended
        costs[name] = max(points(labels, matches.scores, right, kept, total) - base, 0.0)
    costs['False positives'] = points(matches.labels, correct.astype(float), correct, counted, objects) - base
    found = np.bincount(matches.truth[matches.found], minlength=num_classes)
    costs['False negatives'] = points(matches.labels, matches.scores, correct, counted, found) - base
    return costs


def error_counts(matches: Matches, num_classes: int) -> np.ndarray:
    """Count the errors of each kind: (6, C), by predicted class, and by true class for missed objects."""
    counts = np.zeros((len(KINDS), num_classes), int)
    for kind in range(MISSED):
        counts[kind] = np.bincount(matches.labels[matches.kinds == kind], minlength=num_classes)
    counts[MISSED] = np.bincount(matches.truth[matches.missed], minlength=num_classes)
    return counts


def average_precisions(labels: np.ndarray, scores: np.ndarray, correct: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Compute the AP of each class at one IoU: the mean precision at 101 recalls, as in COCO's evaluation.

    Args:
        labels: (D,), predicted classes.
        scores: (D,).
        correct: (D,), whether the detection found an object.
        objects: (C,), number of objects of each class.

    Returns:
        (C,), from 0 to 1. A class without objects has 0.
    """
    order = np.lexsort((-scores, labels))
    ends = np.cumsum(np.bincount(labels, minlength=len(objects)))
    result = np.zeros(len(objects))
    for label, part in enumerate(np.split(correct[order], ends[:-1])):
        if not len(part) or not objects[label]:
            continue
        found = np.cumsum(part)
        precision = found / np.arange(1, len(part) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        places = np.searchsorted(found / objects[label], np.arange(101) / 100)
        result[label] = np.append(precision, 0)[places].sum() / 101
    return result


def _best(overlap: np.ndarray) -> np.ndarray:
    """The largest value of each row; 0 without columns."""
    return overlap.max(1, initial=0)
