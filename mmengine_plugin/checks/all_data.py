"""All problems in the data of a config, for ``tools/check_dataset.py``."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import SimpleNamespace

from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS

from backbones.errors import UserError

from ..data.image_checks import Problem
from ..data.shared_images import shared_by_content
from ..data.wrapped_sets import configured_leaves, configured_sets
from .class_lists import class_list_problems
from .metric_checks import check_metric, scored_sets
from .pipelines import pipeline_problems


def find_problems(cfg: Config) -> list[Problem]:
    """Find the problems of all data sets in a config's data loaders, and print notes.

    Args:
        cfg: A config of mmdet, mmseg or timm_plugin. Its scope must be the default scope.

    Returns:
        The problems, each once.
    """
    datasets, problems = [], []
    for key, config in configured_sets(cfg):
        try:
            datasets.append(DATASETS.build(dict(config, lazy_init=True)))
        except UserError as error:
            problems.append(Problem(cfg.filename, f'refused {key}', str(error), 'change the config'))
    if cfg.default_scope == 'mmengine':
        problems += importlib.import_module('timm_plugin.check_dataset').check(datasets, cfg)
    else:
        problems += importlib.import_module(f'{cfg.default_scope}_plugin.data.check_dataset').check(datasets)
    for message in class_list_problems(cfg):
        problems.append(Problem(cfg.filename, 'different lists of classes', message, 'write the same list everywhere'))
    for split in ('train', 'val', 'test'):
        if split == 'test' and cfg.get('test_dataloader') == cfg.get('val_dataloader'):
            continue
        for message in pipeline_problems(cfg, split) if 'model' in cfg else ():
            problems.append(Problem(cfg.filename, 'pipeline that spoils the scores', message, 'change the config'))
    if not problems:  # the rest needs data that load
        problems += _metric_problems(cfg)
        _print_shared_images(cfg)
    return list(dict.fromkeys(problems))  # data sets that share files have the same problems


def _metric_problems(cfg: Config) -> Iterator[Problem]:
    """The problems of metrics with the data that they score."""
    for split in ('val', 'test'):
        loader, settings = cfg.get(f'{split}_dataloader'), cfg.get(f'{split}_evaluator')
        if not loader or split == 'test' and settings == cfg.get('val_evaluator'):
            continue
        parts = [DATASETS.build(dict(config, lazy_init=True)) for config in configured_leaves(loader.dataset)]
        dataset = parts[0] if len(parts) == 1 else SimpleNamespace(datasets=parts)
        for key, setting, part in scored_sets(cfg, split, dataset):
            type_ = setting['type']  # a class or its registered name
            if isinstance(type_, str):
                type_ = METRICS.get(f'{cfg.default_scope}.{type_}') or METRICS.get(type_)
            if type_ is None or check_metric.dispatch(type_) is check_metric.dispatch(object):
                continue  # nothing is checked
            try:
                metric = METRICS.build(setting)
                metric.dataset_meta = parts[0].metainfo
                check_metric(metric, key, setting, part, cfg)
            except UserError as error:
                yield Problem(cfg.filename, f'refused {key}', str(error), 'change the config')


def _print_shared_images(cfg: Config) -> None:
    """Print how many validation images are also training images."""
    if not cfg.get('val_dataloader'):
        return
    try:
        train, val = (DATASETS.build(cfg[key].dataset) for key in ('train_dataloader', 'val_dataloader'))
        note = shared_by_content(train, val)
    except UserError:  # the picture of samples says why the training set does not load
        return
    if note:
        print(note)
