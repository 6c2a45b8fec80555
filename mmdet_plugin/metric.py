"""COCO's scores, counted faster by faster-coco-eval."""

from types import FunctionType

import numpy as np
from faster_coco_eval import COCOeval_faster
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbones.errors import UserError, did_you_mean

BACKENDS = ('faster_coco_eval', 'pycocotools')


@METRICS.register_module()
class FastCocoMetric(CocoMetric):
    """mmdet's CocoMetric, whose scores faster-coco-eval counts: all are pycocotools', to the last bit.

    Args:
        *args: CocoMetric's.
        backend: ``'faster_coco_eval'`` or ``'pycocotools'``, which CocoMetric itself counts by.
        **kwargs: CocoMetric's. ``use_mp_eval`` concerns pycocotools alone.

    Raises:
        UserError: If there is no such backend.
    """

    def __init__(self, *args, backend: str = 'faster_coco_eval', **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if backend not in BACKENDS:
            guess = did_you_mean(backend, BACKENDS)
            raise UserError(f'FastCocoMetric: no backend {backend!r}{guess}; known: {", ".join(BACKENDS)}')
        self.backend = backend

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the scores, under mmdet's names and rounded as mmdet does."""
        if self.backend == 'pycocotools':
            return super().compute_metrics(results)
        # mmdet's own function, which finds another evaluator by the name that it looks up; its module stays as it is
        compute = CocoMetric.compute_metrics
        names = compute.__globals__ | dict.fromkeys(('COCOeval', 'COCOevalMP'), evaluator)
        return FunctionType(compute.__code__, names)(self, results)


def evaluator(truth: COCO, found: COCO, kind: str) -> 'FastCOCOeval | COCOeval':
    """Stand in for pycocotools' COCOeval, and be it where no float holds the ids, as faster-coco-eval's do."""
    exact = all(isinstance(id_, int) and abs(id_) <= 2**53 for ids in (truth.imgs, truth.cats) for id_ in ids)
    return (FastCOCOeval if exact else COCOeval)(truth, found, kind)


class FastCOCOeval(COCOeval_faster):
    """faster-coco-eval's COCOeval, with pycocotools' scores to the last bit.

    Left to itself it differs in two ways: its first score is not limited to 100 detections in an image, and it divides
    by the number of detections where pycocotools adds ``np.spacing(1)``. That tells for a number of 1 alone, and by one
    bit, which is enough to round another way.
    """

    summarize = COCOeval.summarize

    def evaluate(self) -> None:
        """Match and count, and ask for the precision at the second object too: below 1, a 1 is of one detection."""
        p, recalls = self.params, self.params.recThrs
        second = self._recall_of_second()
        p.recThrs = np.union1d(recalls, second)
        super().evaluate()
        precision = self.eval['precision']  # (T, R, K, A, M): IoU, recall, category, area, detections in an image
        at_second = np.take_along_axis(precision, np.searchsorted(p.recThrs, second)[None, None, ..., None], axis=1)
        precision[(precision == 1) & (at_second < 1)] = 1 / (1 + np.spacing(1))
        asked = np.searchsorted(p.recThrs, recalls)
        self.eval |= {key: self.eval[key][:, asked] for key in ('precision', 'scores')}
        p.recThrs = recalls

    def _recall_of_second(self) -> np.ndarray:
        """(K, A): the recall when two objects are found; 2, which none reaches, where there is but one."""
        p = self.params
        truth = self.cocoGt.loadAnns(self.cocoGt.getAnnIds(imgIds=p.imgIds, catIds=p.catIds))
        truth = [mark for mark in truth if not mark.get('iscrowd')]
        area, category = (np.array([mark[key] for mark in truth]) for key in ('area', 'category_id'))
        categories = np.unique(p.catIds) if p.useCats else [-np.inf]  # all are in one row, then
        row = np.searchsorted(categories, category, side='right') - 1
        inside = [(low <= area) & (area <= high) for low, high in p.areaRng]
        numbers = np.transpose([np.bincount(row[part], minlength=len(categories)) for part in inside])
        return 2 / np.maximum(numbers, 1)
