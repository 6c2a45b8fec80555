"""COCO's scores by pycocotools and by faster-coco-eval."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mmdet_plugin.scores.coco_evaluators import evaluator

from .measuring import measure

IMAGES, OBJECTS = 490, 100  # images, and objects in each
HEIGHT, WIDTH = 480, 640  # pixels


def measure_evaluation(rounds: int) -> Iterator[dict]:
    """Measure both libraries ``rounds`` times, on boxes and on masks; yields rows of the report."""
    truth, detections = random_results()
    for kind in ('bbox', 'segm'):
        if kind == 'bbox':  # boxes alone, as a detector's box results are
            given = [{key: d[key] for key in d if key != 'segmentation'} for d in detections]
        else:
            given = detections
        results = truth.loadRes(given)
        runs = {
            'pycocotools': partial(score, COCOeval, truth, results, kind),
            'faster-coco-eval': partial(score, evaluator, truth, results, kind),
        }
        for candidate, result in measure(runs, rounds, f'evaluation {kind}').items():
            shape = f'{len(detections)} detections'
            yield dict(suite='evaluation', what=kind, shape=shape, candidate=candidate, **result)


def score(make: Callable, truth: COCO, results: COCO, kind: str) -> None:
    """Score detections by an evaluator with the interface of ``COCOeval``."""
    with contextlib.redirect_stdout(io.StringIO()):
        scores = make(truth, results, kind)
        scores.evaluate()
        scores.accumulate()


def random_results() -> tuple[COCO, list[dict]]:
    """Random boxes and their masks as ground truth, and noisy copies of them as detections."""
    random = np.random.default_rng(0)

    def annotation(image: int, category: int, box: np.ndarray) -> dict:
        box = np.maximum(box, 1)
        rle = mask_api.frPyObjects(box[None], HEIGHT, WIDTH)[0]
        return dict(
            image_id=image,
            category_id=category,
            bbox=box.tolist(),
            segmentation=rle,
            area=float(mask_api.area(rle)),
            iscrowd=0,
            score=random.uniform(),
        )

    annotations, detections = [], []
    for image in range(IMAGES):
        corners = random.uniform(0, 0.8, (OBJECTS, 2)) * (WIDTH, HEIGHT)
        extents = random.uniform(0.02, 0.2, (OBJECTS, 2)) * (WIDTH, HEIGHT)
        for box in np.concatenate((corners, extents), axis=1):
            category = int(random.integers(1, 81))
            noisy = box + random.normal(0, 3, 4)
            annotations.append(annotation(image, category, box) | dict(id=len(annotations) + 1))
            detections.append(annotation(image, category, noisy))
    truth = COCO()
    truth.dataset = dict(
        images=[dict(id=image, height=HEIGHT, width=WIDTH) for image in range(IMAGES)],
        annotations=annotations,
        categories=[dict(id=number) for number in range(1, 81)],
    )
    truth.createIndex()
    return truth, detections
