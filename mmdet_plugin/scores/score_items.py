"""The names of COCO's scores, and the scores of each class."""

from collections.abc import Sequence

import numpy as np
from pycocotools.cocoeval import COCOeval
from terminaltables import AsciiTable

from backbones.errors import UserError

SIZES = {'_s': 1, '_m': 2, '_l': 3}  # rows of COCOeval's areas; row 0 is for all objects
IOUS = {'_50': 0.5, '_75': 0.75}


def three_numbers(numbers: Sequence[int], kinds: Sequence[str]) -> list[int]:
    """The numbers of detections in an image that are scored, in increasing order.

    Args:
        numbers: The setting ``proposal_nums``.
        kinds: The setting ``metric``. ``'proposal_fast'`` takes any numbers.

    Returns:
        At least three numbers, since mmdet reads three recalls; the largest one fills the places of those that lack.

    Raises:
        UserError: If there are more than three numbers, or others than positive integers.
    """
    right = all(isinstance(number, int) and number > 0 for number in numbers)
    if set(kinds) == {'proposal_fast'} and right:
        return list(numbers)
    if not right or not 1 <= len(set(numbers)) <= 3:
        raise UserError(
            f'FastCocoMetric: proposal_nums={tuple(numbers)}: write one to three numbers of detections, such as '
            'proposal_nums=(100, 300, 1000)'
        )
    several = sorted(set(numbers))
    while len(several) < 3:
        several.append(several[-1])
    return several


def item_names(numbers: Sequence[int], ious: np.ndarray) -> dict[str, int]:
    """The names of the scores, with their positions in COCOeval's ``stats``.

    Args:
        numbers: Three numbers of detections in an image, in increasing order.
        ious: Thresholds of the IoU, ``(T,)``. Without 0.5 or 0.75, there is no ``mAP_50`` or ``mAP_75``.
    """
    names = dict(mAP=0)
    for position, (suffix, iou) in enumerate(IOUS.items(), start=1):
        if np.isclose(ious, iou).any():
            names[f'mAP{suffix}'] = position
    names |= {f'mAP{suffix}': 2 + row for suffix, row in SIZES.items()}
    names |= {f'AR@{number}': position for position, number in enumerate(numbers, start=6)}
    names |= {f'AR{suffix}@{numbers[-1]}': 8 + row for suffix, row in SIZES.items()}
    return names


def class_precisions(evaluation: COCOeval, position: int) -> dict[str, float]:
    """The average precisions of a class, by the names of the scores; NaN if there are no objects.

    Args:
        evaluation: An accumulated evaluation.
        position: Position of the class in the precision.
    """
    precision = evaluation.eval['precision'][:, :, position, :, -1]  # (T, R, A): IoU, recall, area
    ious = evaluation.params.iouThrs
    parts = dict(mAP=precision[..., 0])
    for suffix, iou in IOUS.items():
        if np.isclose(ious, iou).any():
            parts[f'mAP{suffix}'] = precision[np.isclose(ious, iou), :, 0]
    parts |= {f'mAP{suffix}': precision[..., row] for suffix, row in SIZES.items()}
    known = {name: part[part > -1] for name, part in parts.items()}
    return {name: round(float(np.mean(part)), 3) if part.size else float('nan') for name, part in known.items()}


def class_table(rows: dict[str, dict[str, float]]) -> str:
    """A table of the average precisions of each class, by class name."""
    names = list(next(iter(rows.values())))
    return AsciiTable([['category', *names], *([name, *row.values()] for name, row in rows.items())]).table
