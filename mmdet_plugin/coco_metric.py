"""COCO's scores, computed faster by faster-coco-eval."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from faster_coco_eval import COCOeval_faster
from mmdet.evaluation import CocoMetric
from mmdet.evaluation.metrics import coco_metric
from mmdet.registry import METRICS
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbones.errors import UserError, did_you_mean

BACKENDS = ('faster_coco_eval', 'pycocotools')


@METRICS.register_module()
class FastCocoMetric(CocoMetric):
    """mmdet's CocoMetric on faster-coco-eval. All scores equal those of pycocotools to the last bit.

    Args:
        *args: Arguments of CocoMetric.
        backend: ``'faster_coco_eval'``, or ``'pycocotools'`` for CocoMetric as it is.
        **kwargs: Arguments of CocoMetric. ``use_mp_eval`` only has an effect with ``'pycocotools'``.

    Raises:
        UserError: If ``backend`` is neither of the two.
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
        with fast_evaluation():
            return super().compute_metrics(results)


@contextmanager
def fast_evaluation() -> Iterator[None]:
    """Let mmdet's CocoMetric use :func:`evaluator` in place of pycocotools' COCOeval."""
    # CocoMetric has no argument for the class of its evaluator: its long method looks up COCOeval, or with use_mp_eval
    # COCOevalMP, in its module. They are public names, set back at the end: other metrics keep pycocotools.
    originals = {name: getattr(coco_metric, name) for name in ('COCOeval', 'COCOevalMP')}
    try:
        for name in originals:
            setattr(coco_metric, name, evaluator)
        yield
    finally:
        for name, original in originals.items():
            setattr(coco_metric, name, original)


def evaluator(truth: COCO, found: COCO, kind: str) -> 'FastCOCOeval | COCOeval':
    """Build the evaluator for the arguments of pycocotools' COCOeval.

    Args:
        truth: Annotations.
        found: Detections.
        kind: ``'bbox'`` or ``'segm'``.

    Returns:
        A :class:`FastCOCOeval`, or pycocotools' COCOeval if an id of an image or a category is not an integer that a
        float64 can hold: faster-coco-eval stores ids as floats.
    """
    ids = [*truth.imgs, *truth.cats]
    if all(isinstance(id_, int) and abs(id_) <= 2**53 for id_ in ids):
        return FastCOCOeval(truth, found, kind)
    return COCOeval(truth, found, kind)


class FastCOCOeval(COCOeval_faster):
    """faster-coco-eval's COCOeval with the scores of pycocotools, to the last bit.

    faster-coco-eval differs from pycocotools in two ways. Its first score is not limited to 100 detections per
    image. Where it divides by the number of detections to get the precision, pycocotools divides by this number plus
    ``np.spacing(1)``. In float64 the sum differs from the number only for a single detection, and only by one bit, but
    this bit can change how a score is rounded.
    """

    summarize = COCOeval.summarize

    def evaluate(self) -> None:
        """Match detections with objects, and compute precision and recall.

        A precision of 1 becomes pycocotools' ``1 / (1 + np.spacing(1))`` where it is that of a single detection: where
        the precision is below 1 at the recall of two found objects. It is therefore computed at that recall, too.
        """
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
        """The recall of two found objects, (K, A): category, area. With fewer objects it is 2, beyond any recall."""
        p = self.params
        truth = self.cocoGt.loadAnns(self.cocoGt.getAnnIds(imgIds=p.imgIds, catIds=p.catIds))
        truth = [mark for mark in truth if not mark.get('iscrowd')]
        area = np.array([mark['area'] for mark in truth])
        if p.useCats:
            categories = np.unique(p.catIds)
            row = np.searchsorted(categories, [mark['category_id'] for mark in truth])
        else:
            categories, row = [None], np.zeros(len(truth), int)  # objects of all categories are counted together
        inside = [(low <= area) & (area <= high) for low, high in p.areaRng]
        numbers = np.transpose([np.bincount(row[part], minlength=len(categories)) for part in inside])
        return 2 / np.maximum(numbers, 1)
