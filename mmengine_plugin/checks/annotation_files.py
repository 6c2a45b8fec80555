"""Whether data sets and metrics read the same annotations, and number the classes alike."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping

from backbones.errors import UserError

from ..data.wrapped_sets import leaves
from .run_part import RunPart, numbered


def check_annotation_file(part: RunPart) -> None:
    """Check that the evaluator reads the annotation file of the data set.

    Args:
        part: A validation or a test. If its data set has no ``ann_file`` of its own, as in a concatenation, nothing is
            checked.

    Raises:
        UserError: If it reads another file.
    """
    of_data = getattr(part.dataset, 'ann_file', None)
    metrics = numbered(f'{part.split}_evaluator', part.cfg.get(f'{part.split}_evaluator'))
    read = {
        key: metric['ann_file'] for key, metric in metrics if isinstance(metric, Mapping) and metric.get('ann_file')
    }
    if not of_data or not read or os.path.realpath(of_data) in map(os.path.realpath, read.values()):
        return  # another metric may read a file of its own: that of the boxes beside that of a panoptic segmentation
    key, of_metric = next(iter(read.items()))
    raise UserError(
        f'{key}.ann_file is {of_metric}, but the images of {part.split}_dataloader are those of {of_data}: set '
        f'{key}.ann_file={of_data}, or dataset.ann_file in {part.split}_dataloader'
    )


def check_class_order(part: RunPart) -> None:
    """Check that the data set and the metrics number the classes alike.

    Raises:
        UserError: If one of them numbers classes in another order than ``metainfo.classes``.
    """
    for leaf in leaves(part.dataset):
        class_order(leaf, f'{part.split}_dataloader.dataset', getattr(leaf, 'ann_file', None))
    settings = numbered(f'{part.split}_evaluator', part.cfg.get(f'{part.split}_evaluator'))
    for (key, setting), metric in zip(settings, part.metrics, strict=False):
        class_order(metric, key, setting.get('ann_file') if isinstance(setting, Mapping) else None)


@functools.singledispatch
def class_order(part: object, key: str, ann_file: str | None) -> None:
    """Refuse a data set or a metric that numbers classes otherwise than ``metainfo.classes``.

    The plugins register implementations for types of mmdet.

    Args:
        part: A data set, or a metric that has its ``dataset_meta``.
        key: Its key in the config, for the message.
        ann_file: Its annotation file.

    Raises:
        UserError: If it numbers them otherwise.
    """
