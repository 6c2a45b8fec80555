"""COCO's evaluation: faster-coco-eval with the scores of pycocotools, and pycocotools itself."""

import numpy as np
from faster_coco_eval import COCOeval_faster
from mmdet.datasets.api_wrappers import COCOevalMP
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

COUNTED = 100  # detections in an image that COCO's mAP counts


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
        return InOrderFastCOCOeval(truth, found, kind)
    return InOrderCOCOeval(truth, found, kind)


class FastCOCOeval(COCOeval_faster):
    """faster-coco-eval's COCOeval with the precisions of pycocotools, to the last bit.

    Where faster-coco-eval divides by the number of detections to get the precision, pycocotools divides by this number
    plus ``np.spacing(1)``. In float64 the sum differs from the number only for a single detection, and only by one bit,
    but this bit can change how a score is rounded.
    """

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


class InOrder:
    """A mixin for COCOeval that returns the categories in the order of ``params.catIds``.

    COCOeval sorts them, and mmdet takes the score of each class by the position of the class.
    """

    def evaluate(self) -> None:
        """Match detections with objects."""
        self.asked = list(self.params.catIds)
        super().evaluate()

    def summarize(self) -> None:
        """Compute and print the scores ``stats``, in the order of pycocotools.

        pycocotools' first score is -1 if 100 is not in ``params.maxDets``; here it counts the largest number then. The
        score of an IoU that is not in ``params.iouThrs`` is -1. The last bit depends on the order of the categories,
        which is that of pycocotools.
        """
        numbers = self.params.maxDets
        last = len(numbers) - 1
        first = numbers.index(COUNTED) if COUNTED in numbers else last
        rows = [('precision', None, 0, first), ('precision', 0.5, 0, last), ('precision', 0.75, 0, last)]
        rows += [('precision', None, area, last) for area in (1, 2, 3)]
        rows += [('recall', None, 0, number) for number in (0, 1, 2)]
        rows += [('recall', None, area, last) for area in (1, 2, 3)]
        self.stats = np.array([self._mean(*row) for row in rows])
        if self.params.useCats:
            order = np.searchsorted(self.params.catIds, self.asked)
            self.eval |= {key: self.eval[key][:, :, order] for key in ('precision', 'scores')}
            self.eval['recall'] = self.eval['recall'][:, order]

    def _mean(self, table: str, iou: float | None, area: int, number: int) -> float:
        """The mean of a part of the precision or recall; -1 if there are no objects, or no such IoU or area."""
        p, values = self.params, self.eval[table]
        if area >= len(p.areaRng):
            return -1
        if iou is not None:
            values = values[np.isclose(p.iouThrs, iou)]
            if not len(values):
                return -1
        values = values[..., area, number]
        values = values[values > -1]
        mean = np.mean(values) if len(values) else -1
        name = 'Average Precision  (AP)' if table == 'precision' else 'Average Recall     (AR)'
        ious = f'{p.iouThrs[0]:.2f}:{p.iouThrs[-1]:.2f}' if iou is None else f'{iou:.2f}'
        print(
            f' {name} @[ IoU={ious:<9} | area={p.areaRngLbl[area]:>6} | maxDets={p.maxDets[number]:>3} ] = {mean:.3f}'
        )
        return mean


class InOrderFastCOCOeval(InOrder, FastCOCOeval):
    """faster-coco-eval's evaluation with categories in order."""


class InOrderCOCOeval(InOrder, COCOeval):
    """pycocotools' evaluation with categories in order."""


class InOrderCOCOevalMP(InOrder, COCOevalMP):
    """mmdet's evaluation in several processes with categories in order."""
