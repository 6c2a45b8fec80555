"""All detections of a data set matched with its objects, and what is confused with what."""

from __future__ import annotations

import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from pycocotools import mask as rle
from tqdm import tqdm

from .result_samples import arrays
from .tide import FOREGROUND, MAX_DETECTIONS, Matches, concatenate, match_image

LABELS = dict(bbox='matching boxes', segm='matching masks')  # of the progress bars


def match_all(
    truth: COCO, samples: list[dict], dataset: CocoDataset, kind: str, score_thr: float
) -> tuple[Matches, list[np.ndarray]]:
    """Match all detections, and find the confusions of each image: :func:`confusions`."""
    matches, pairs = [], []
    for index, sample in enumerate(tqdm(samples, LABELS[kind], mininterval=1)):
        scores, labels, regions = (values[:MAX_DETECTIONS] for values in arrays(sample, kind))
        marks = [mark for mark in truth.imgToAnns[sample['img_id']] if mark['category_id'] in dataset.cat2label]
        objects, crowds = ([mark for mark in marks if bool(mark.get('iscrowd')) == crowd] for crowd in (False, True))
        iou, crowd_iou = (_iou(regions, part, truth, kind) for part in (objects, crowds))
        classes, crowd_classes = (
            np.array([dataset.cat2label[mark['category_id']] for mark in part], int) for part in (objects, crowds)
        )
        match = match_image(scores, labels, classes, iou, crowd_classes, crowd_iou, index)
        matches.append(match)
        pairs.append(confusions(match, iou, score_thr, len(dataset.cat_ids)))
    return concatenate(matches), pairs


def _iou(regions: np.ndarray | list, marks: list[dict], truth: COCO, kind: str) -> np.ndarray:
    """The IoU (D, G) of detections with annotations; with crowds, the share of a detection that lies in one."""
    if not marks or not len(regions):
        return np.zeros((len(regions), len(marks)))
    if kind == 'bbox':
        others = np.array([mark['bbox'] for mark in marks], float)
    else:
        others = [truth.annToRLE(mark) for mark in marks]
    return rle.iou(regions, others, [bool(mark.get('iscrowd')) for mark in marks])


def confusions(match: Matches, iou: np.ndarray, score_thr: float, background: int) -> np.ndarray:
    """Pair the detections of an image with its objects, of whatever class.

    A detection that found an object of its class is paired with it. In the order of the scores, each other detection is
    paired with the object that it fits best of those that are left, at an IoU of at least 0.5.

    Args:
        match: Matches of the image.
        iou: (D, G), intersection over union.
        score_thr: Detections with a lower score are left out. Those within crowds are left out, too.
        background: The class of what has no partner: detections without an object, and objects without a detection.

    Returns:
        (P, 2): true and predicted class of each pair. Each object and each detection is in one pair.
    """
    kept = match.scores >= score_thr
    partners = np.where(kept, match.objects, -1)
    free = iou.copy()
    free[:, partners[partners >= 0]] = 0
    if iou.size:
        for detection in np.flatnonzero(kept & (partners < 0) & (free.max(1) >= FOREGROUND)):
            candidate = free[detection].argmax()
            if free[detection, candidate] >= FOREGROUND:
                partners[detection] = candidate
                free[:, candidate] = 0
    kept &= (partners >= 0) | ~match.ignored
    true = np.append(match.truth, background)[partners[kept]]
    alone = match.truth[~np.isin(np.arange(len(match.truth)), partners)]
    pairs = [np.stack([true, match.labels[kept]], 1), np.stack([alone, np.full_like(alone, background)], 1)]
    return np.concatenate(pairs)


def rank_images(samples: list[dict], pairs: list[np.ndarray], dataset: CocoDataset) -> list[dict]:
    """The images with errors, those with most first: missed objects, detections of no object, and confusions."""
    background, ranked = len(dataset.cat_ids), []
    paths = {info['img_id']: info['img_path'] for info in map(dataset.get_data_info, range(len(dataset)))}
    for index, (sample, (true, predicted)) in enumerate(zip(samples, (p.T for p in pairs), strict=True)):
        missed, false = int((predicted == background).sum()), int((true == background).sum())
        confused = int((true != predicted).sum()) - missed - false
        entry = dict(index=index, id=sample['img_id'], file=paths[sample['img_id']])
        ranked.append(entry | dict(missed=missed, false=false, confused=confused))
    ranked.sort(key=lambda entry: -(entry['missed'] + entry['false'] + entry['confused']))
    return [entry for entry in ranked if entry['missed'] + entry['false'] + entry['confused']]
