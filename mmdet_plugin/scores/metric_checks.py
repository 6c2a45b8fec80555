"""Checks of COCO's metric against the data that it scores."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from os import path as osp

from mmdet.datasets.transforms import PackDetInputs
from mmdet.evaluation import CocoMetric
from mmengine.config import Config
from mmengine.logging import print_log
from torch.utils.data import Dataset

from backbones.errors import UserError
from mmengine_plugin.checks.metric_checks import check_metric
from mmengine_plugin.data.wrapped_sets import leaves

from ..data.annotation_file import refuse
from ..data.mask_checks import mask_problems
from ..data.usable_objects import objects_of
from .coco_evaluators import COUNTED
from .coco_metric import FastCocoMetric


@check_metric.register
def check_coco_metric(metric: CocoMetric, key: str, setting: Mapping, dataset: Dataset, cfg: Config) -> None:
    """Compare COCO's metric with the data sets that it scores.

    Args:
        metric: The metric.
        key: Its key in the config.
        setting: Its config.
        dataset: The data set.
        cfg: Config of the run.

    Raises:
        UserError: If it scores several annotation files, if it has no file and the samples lack their objects, if
            masks are to be scored and objects lack them, or if a validation set has no objects.
    """
    parts = list(leaves(dataset))
    files = list(dict.fromkeys(osp.realpath(part.ann_file) for part in parts if getattr(part, 'ann_file', None)))
    if metric.format_only or not files:
        return
    if setting.get('ann_file') is None:
        _check_samples(key, parts)
        return
    if len(files) > 1 and osp.realpath(setting['ann_file']) in files:  # another file may have the images of all
        raise UserError(_several_files(key, setting, files))
    if isinstance(metric, FastCocoMetric) and metric.truth is not None:
        _check_objects(metric, key, parts[0].metainfo['classes'], cfg)


def _check_samples(key: str, parts: Sequence[Dataset]) -> None:
    """Check that samples have their objects, if they are the truth of a metric without an annotation file."""
    for part in parts:
        pack = next((t for t in part.pipeline.transforms if isinstance(t, PackDetInputs)), None)
        if pack is not None and 'instances' not in pack.meta_keys:
            keys, loader = (*pack.meta_keys, 'instances'), f'{key.split("_")[0]}_dataloader'
            raise UserError(
                f'{key} has no ann_file, and the samples do not have their objects: set '
                f'{key}.ann_file={part.ann_file}, or meta_keys={keys} in PackDetInputs of {loader}'
            )


def _several_files(key: str, setting: Mapping, files: Sequence[str]) -> str:
    """What to type if the images of several annotation files are scored by one of them."""
    split, shown = key.split('_')[0], [osp.relpath(file) for file in files]
    rest = {name: value for name, value in setting.items() if value and name not in ('ann_file', '_scope_')}
    metrics = ', '.join(f'dict({_arguments(dict(rest, ann_file=file))})' for file in shown)
    names = [osp.basename(osp.dirname(file)) or 'set' for file in files]
    prefixes = tuple(f'{name}_{i}' if names.count(name) > 1 else name for i, name in enumerate(names))
    return (
        f'{split}_dataloader has the images of {" and ".join(shown)}, but {key} scores the objects of one file: score '
        f"each set by itself: {split}_evaluator = dict(_delete_=True, type='MultiDatasetsEvaluator', "
        f'metrics=[{metrics}], dataset_prefixes={prefixes}), and '
        f"default_hooks = dict(checkpoint=dict(save_best='{prefixes[0]}/coco/bbox_mAP'))"
    )


def _arguments(settings: Mapping) -> str:
    return ', '.join(f'{name}={value!r}' for name, value in settings.items())


def _check_objects(metric: FastCocoMetric, key: str, classes: Sequence[str], cfg: Config) -> None:
    """Check the objects that a metric scores."""
    file, content = metric.truth.path, metric.truth.dataset
    if 'segm' in metric.metrics:
        refuse(mask_problems(file, content, classes))
    names = {image['id']: image['file_name'] for image in content['images']}
    counts = Counter(mark['image_id'] for mark, _ in objects_of(content, classes) if not mark['iscrowd'])
    if not counts:
        message = (
            f'{key}: {file} has no objects of the classes {", ".join(map(repr, classes))}: every score would be -1'
        )
        if key.startswith('val'):
            raise UserError(
                f'{message}; use a set with objects, or set val_cfg, val_dataloader and val_evaluator to None'
            )
        print_log(message, 'current', logging.WARNING)
        return
    image, most = counts.most_common(1)[0]
    limits = _limits((cfg.get('model') or {}).get('test_cfg') or {})
    counted = COUNTED if COUNTED in metric.proposal_nums else metric.proposal_nums[-1]
    too_low = {name: limit for name, limit in limits.items() if limit < most}
    if counted < most or too_low:
        settings = [f'{name}={most}' for name in too_low]
        reasons = [f'{name} is {limit}' for name, limit in too_low.items()]
        if counted < most:
            reasons.append(f'mAP counts {counted} detections in an image')
            settings.append(f'{key}.proposal_nums=({most},)')
        print_log(
            f'{names[image]} of {file} has {most} objects, but {" and ".join(reasons)}: no detector can find all of '
            f'them. Set {", ".join(settings)}',
            'current',
            logging.WARNING,
        )


def _limits(test_cfg: Mapping) -> dict[str, int]:
    """The numbers of detections in an image to which a model is limited, by their keys in the config."""
    limits = {}
    for key, settings in (('model.test_cfg', test_cfg), ('model.test_cfg.rcnn', test_cfg.get('rcnn') or {})):
        if settings.get('max_per_img'):
            limits[f'{key}.max_per_img'] = settings['max_per_img']
    return limits
