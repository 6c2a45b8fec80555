"""COCO's scores, computed faster by faster-coco-eval."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from mmdet.evaluation import CocoMetric
from mmdet.evaluation.metrics import coco_metric
from mmdet.registry import METRICS
from mmengine.logging import print_log
from pycocotools.cocoeval import COCOeval

from backbones.errors import UserError, did_you_mean

from ..data.annotation_file import IndexedAnnotations, refuse
from ..data.annotation_reader import read_annotations
from ..data.class_checks import add_empty_categories
from ..data.image_files import has_size
from ..data.masks import has_mask
from .coco_evaluators import InOrderCOCOeval, InOrderCOCOevalMP, evaluator
from .score_items import class_precisions, class_table, item_names, three_numbers

BACKENDS = ('faster_coco_eval', 'pycocotools')


@METRICS.register_module()
class FastCocoMetric(CocoMetric):
    """mmdet's CocoMetric on faster-coco-eval. All scores equal those of pycocotools to the last bit.

    It reads the annotation file as :class:`CheckedCocoDataset` does: classes are mapped by their names, whatever the
    order of the file, and what a file lacks is filled in. It scores the images that were tested, which may be a part
    of the file.

    Args:
        *args: Arguments of CocoMetric.
        backend: ``'faster_coco_eval'`` or ``'pycocotools'``.
        may_lack_classes: Whether the annotation file may lack classes, as that of one of several data sets may. The
            programs in ``tools/`` set it for such data sets.
        **kwargs: Arguments of CocoMetric. ``use_mp_eval`` only has an effect with ``'pycocotools'``.
            ``proposal_nums`` has one to three numbers of detections in an image. ``mAP`` counts 100 detections if 100
            is one of them, as COCO does, or else the largest number: ``proposal_nums=(300,)`` counts 300 in all scores.
            The recalls are named by the numbers, such as ``AR@300``. ``iou_thrs`` is a number or a list; ``mAP_50`` and
            ``mAP_75`` are left out if it lacks 0.5 or 0.75. With ``classwise``, the score of a class is
            ``{class}_precision``, or ``bbox_{class}_precision`` and ``segm_{class}_precision`` if both are scored.

    Raises:
        UserError: If an argument has a value that is not known, if the annotation file cannot be used, or if masks are
            to be scored and it has none.
    """

    def __init__(self, *args, backend: str = 'faster_coco_eval', may_lack_classes: bool = False, **kwargs) -> None:
        self.may_lack_classes = may_lack_classes
        self.truth: IndexedAnnotations | None = None  # without ann_file, it is made from the data set at the end
        with replaced(COCO=self._read):
            super().__init__(*args, **kwargs)
        if backend not in BACKENDS:
            guess = did_you_mean(backend, BACKENDS)
            raise UserError(f'FastCocoMetric: no backend {backend!r}{guess}; known: {", ".join(BACKENDS)}')
        self.backend = backend
        self.truth_in_samples = self.truth is None
        self.iou_thrs = np.atleast_1d(np.asarray(self.iou_thrs, float))
        self.proposal_nums = three_numbers(self.proposal_nums, self.metrics)
        # mmdet would name recalls by its own numbers, and the scores of boxes and masks of a class alike
        self.asked_items, self.metric_items = self.metric_items, None
        self.of_classes, self.classwise = self.classwise, False
        known = item_names(self.proposal_nums, self.iou_thrs)
        for item in self.asked_items or ():
            if item not in known:
                raise UserError(
                    f'FastCocoMetric: metric_items has {item!r}{did_you_mean(item, known)}; with proposal_nums='
                    f'{tuple(dict.fromkeys(self.proposal_nums))} and these iou_thrs, there are {", ".join(known)}'
                )

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

    def items(self, kind: str) -> dict[str, int]:
        """The scores that are asked for, by name, with their positions in pycocotools' ``stats``.

        Args:
            kind: ``'bbox'``, ``'segm'`` or ``'proposal'``.
        """
        known = item_names(self.proposal_nums, self.iou_thrs)
        if self.asked_items is not None:
            return {item: known[item] for item in self.asked_items}
        return {item: position for item, position in known.items() if item.startswith('AR') == (kind == 'proposal')}

    def class_score_name(self, kind: str, class_name: str) -> str:
        """The name of the score of a class, for ``kind`` ``'bbox'`` or ``'segm'``."""
        both = {'bbox', 'segm'} <= set(self.metrics)
        return f'{kind}_{class_name}_precision' if both else f'{class_name}_precision'

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the scores, under mmdet's names and rounded as mmdet does."""
        if self.truth_in_samples:
            for number, (image, found) in enumerate(results):  # several data sets may have the same image ids
                image['img_id'] = found['img_id'] = number
        else:
            if self.may_lack_classes and add_empty_categories(self.truth.dataset, self.dataset_meta['classes']):
                self.truth.createIndex()
            sizes = {image['img_id']: (image['height'], image['width']) for image, _ in results}
            for image in self.truth.dataset['images']:
                if image['id'] in sizes and not has_size(image):  # polygons are scored in the size of the image
                    image['height'], image['width'] = sizes[image['id']]
            if len(sizes) < len(self.truth.imgs):
                print_log(
                    f'{len(sizes)} of the {len(self.truth.imgs)} images of {self.truth.path} are scored', 'current'
                )
            self.img_ids = list(sizes)
        evaluations = []

        def recorded(build: Callable) -> Callable:
            def build_and_record(*args) -> COCOeval:
                evaluations.append(build(*args))
                return evaluations[-1]

            return build_and_record

        one, several = evaluator, evaluator
        if self.backend == 'pycocotools':
            one, several = InOrderCOCOeval, InOrderCOCOevalMP
        with replaced(COCO=self._read, COCOeval=recorded(one), COCOevalMP=recorded(several)):
            by_mmdet = super().compute_metrics(results)
        scores = {}
        if 'proposal_fast' in self.metrics:
            scores = {name: value for name, value in by_mmdet.items() if name.startswith('AR@')}
        kinds = [kind for kind in self.metrics if kind != 'proposal_fast']
        for kind, evaluation in zip(kinds, evaluations, strict=False):  # without detections, there are no evaluations
            scores |= self._scores(kind, evaluation)
        return scores

    def _scores(self, kind: str, evaluation: COCOeval) -> dict[str, float]:
        scores = {}
        if self.of_classes and kind != 'proposal':
            names = self.dataset_meta['classes']
            rows = {name: class_precisions(evaluation, position) for position, name in enumerate(names)}
            print_log(f'{kind}:\n{class_table(rows)}', 'current')
            scores = {self.class_score_name(kind, name): row['mAP'] for name, row in rows.items()}
        for item, position in self.items(kind).items():
            value = evaluation.stats[position]
            if kind == 'proposal':
                scores[item] = float(f'{value:.3f}')
            else:
                scores[f'{kind}_{item}'] = round(float(value), 3)
        return scores


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
