"""Refuses mmdet's own CocoDataset and CocoMetric where they number classes in the order of the annotation file."""

import json
from collections.abc import Sequence

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmengine import fileio

from backbones.errors import UserError
from mmengine_plugin.checks.annotation_files import class_order


@class_order.register
def check_dataset(dataset: CocoDataset, key: str, ann_file: str) -> None:
    """Check a data set that reads annotations with mmdet's own index. CheckedCocoDataset maps classes by their names.

    Args:
        dataset: The data set.
        key: Its key in the config.
        ann_file: Its annotation file.

    Raises:
        UserError: If the file lists the classes in another order.
    """
    # a subclass may number them in its own way, as that of Objects365 does
    if dataset.COCOAPI is COCO and type(dataset).load_data_list is CocoDataset.load_data_list:
        _compare(dataset.metainfo['classes'], ann_file, dataset.backend_args, key, 'CheckedCocoDataset')


@class_order.register
def check_metric(metric: CocoMetric, key: str, ann_file: str | None) -> None:
    """Check mmdet's own CocoMetric. FastCocoMetric maps classes by their names.

    Args:
        metric: The metric.
        key: Its key in the config.
        ann_file: Its annotation file. Without one, mmdet takes the numbers of the data set.

    Raises:
        UserError: If the file lists the classes in another order.
    """
    if type(metric) is CocoMetric and ann_file:
        _compare(metric.dataset_meta['classes'], ann_file, metric.backend_args, key, 'FastCocoMetric')


def _compare(classes: Sequence[str], ann_file: str, backend_args: dict | None, key: str, type_: str) -> None:
    listed = [name for name in _category_names(ann_file, backend_args) if name in classes]
    if listed != list(classes):
        raise UserError(
            f"{key}: mmdet's own type numbers the classes in the order of {ann_file}, which is {listed}, and not of "
            f"metainfo.classes={list(classes)}: set {key}.type='{type_}'"
        )


def _category_names(ann_file: str, backend_args: dict | None) -> list[str]:
    """The names of the categories. The rest of the file may have gigabytes, and is not parsed."""
    text = fileio.get_text(ann_file, backend_args=backend_args)
    start = text.index('[', text.index('"categories"'))
    categories, _ = json.JSONDecoder().raw_decode(text, start)
    return [category['name'] for category in categories]
