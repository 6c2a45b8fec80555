"""COCO's scores, computed faster by faster-coco-eval."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from faster_coco_eval import COCOeval_faster
from mmdet.datasets.api_wrappers import COCOevalMP
from mmdet.evaluation import CocoMetric
from mmdet.evaluation.metrics import coco_metric
from mmdet.registry import METRICS
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbones.errors import UserError, did_you_mean

from .annotation_file import IndexedAnnotations, refuse
from .annotation_reader import read_annotations
from .image_files import has_size
from .masks import has_mask

BACKENDS = ('faster_coco_eval', 'pycocotools')


@METRICS.register_module()
class FastCocoMetric(CocoMetric):
    """mmdet's CocoMetric on faster-coco-eval. All scores equal those of pycocotools to the last bit.

    It reads the annotation file as :class:`CheckedCocoDataset` does: classes are mapped by their names, whatever the
    order of the file, and what a file lacks is filled in.

    Args:
        *args: Arguments of CocoMetric.
        backend: ``'faster_coco_eval'`` or ``'pycocotools'``.
        **kwargs: Arguments of CocoMetric. ``use_mp_eval`` only has an effect with ``'pycocotools'``.

    Raises:
        UserError: If ``backend`` is neither of the two, if the annotation file cannot be used, or if masks are to be
            scored and it has none.
    """

    def __init__(self, *args, backend: str = 'faster_coco_eval', **kwargs) -> None:
        self.truth: IndexedAnnotations | None = None  # without ann_file, it is made from the data set at the end
        with replaced(COCO=self._read):
            super().__init__(*args, **kwargs)
        if backend not in BACKENDS:
            guess = did_you_mean(backend, BACKENDS)
            raise UserError(f'FastCocoMetric: no backend {backend!r}{guess}; known: {", ".join(BACKENDS)}')
        self.backend = backend

    def _read(self, path: str) -> IndexedAnnotations:
        file = read_annotations(path)
        refuse(file.problems)
        annotations = file.content['annotations']
        if 'segm' in self.metrics and annotations and not any(has_mask(a.get('segmentation')) for a in annotations):
            raise UserError(
                f'{path}: none of its {len(annotations)} annotations has a mask: '
                "set metric='bbox' in val_evaluator and test_evaluator"
            )
        self.truth = IndexedAnnotations(file)
        return self.truth

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the scores, under mmdet's names and rounded as mmdet does."""
        sizes = {image['img_id']: (image['height'], image['width']) for image, _ in results}
        if self.truth is not None:
            for image in self.truth.dataset['images']:
                if image['id'] in sizes and not has_size(image):  # polygons are scored in the size of the image
                    image['height'], image['width'] = sizes[image['id']]
        one, several = evaluator, evaluator
        if self.backend == 'pycocotools':
            one, several = InOrderCOCOeval, InOrderCOCOevalMP
        with replaced(COCO=self._read, COCOeval=one, COCOevalMP=several):
            return super().compute_metrics(results)


@contextmanager
def replaced(**names: Callable) -> Iterator[None]:
    """Let mmdet's CocoMetric use other functions or classes under the given names of its module."""
    # CocoMetric has no argument for the class of its evaluator or of its annotations: its long methods look them up in
    # their module. They are public names, set back at the end: other metrics keep mmdet's and pycocotools'.
    originals = {name: getattr(coco_metric, name) for name in names}
    try:
        for name, value in names.items():
            setattr(coco_metric, name, value)
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
        return InOrderFastCOCOeval(truth, found, kind)
    return InOrderCOCOeval(truth, found, kind)


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


class InOrder:
    """A mixin for COCOeval that returns the categories in the order of ``params.catIds``.

    COCOeval sorts them, and mmdet takes the score of each class by the position of the class.
    """

    def evaluate(self) -> None:
        """Match detections with objects."""
        self.asked = list(self.params.catIds)
        super().evaluate()

    def summarize(self) -> None:
        """Compute the scores; their last bit depends on the order of the categories, which is that of pycocotools."""
        super().summarize()
        if self.params.useCats:
            order = np.searchsorted(self.params.catIds, self.asked)
            self.eval |= {key: self.eval[key][:, :, order] for key in ('precision', 'scores')}
            self.eval['recall'] = self.eval['recall'][:, order]


class InOrderFastCOCOeval(InOrder, FastCOCOeval):
    """faster-coco-eval's evaluation with categories in order."""


class InOrderCOCOeval(InOrder, COCOeval):
    """pycocotools' evaluation with categories in order."""


class InOrderCOCOevalMP(InOrder, COCOevalMP):
    """mmdet's evaluation in several processes with categories in order."""
