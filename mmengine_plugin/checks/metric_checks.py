"""Metrics compared with the data that they score, before the first step."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.runner import Runner
from torch.utils.data import Dataset

from .pipelines import type_name


@functools.singledispatch
def check_metric(metric: BaseMetric, key: str, setting: Mapping, dataset: Dataset, cfg: Config) -> None:
    """Compare a metric with the data set that it scores, and print warnings.

    The plugins register implementations for the metrics of mmdet and mmseg.

    Args:
        metric: A metric that has its ``dataset_meta``.
        key: Its key in the config, such as ``'val_evaluator'``.
        setting: Its config.
        dataset: The data set of the data loader, or the part of it that the metric scores.
        cfg: Config of the run.

    Raises:
        UserError: If the scores would be wrong, or could not be computed.
    """


def check_metrics(runner: Runner, split: str) -> None:
    """Compare the metrics of an evaluator with the data set of its data loader.

    Args:
        runner: The run.
        split: ``'val'`` or ``'test'``.

    Raises:
        UserError: If the scores of a metric would be wrong, or could not be computed.
    """
    dataset = getattr(runner, f'{split}_dataloader').dataset
    metrics = getattr(runner, f'{split}_evaluator').metrics
    for metric, (key, setting, part) in zip(metrics, scored_sets(runner.cfg, split, dataset), strict=False):
        if metric.dataset_meta is not None:
            check_metric(metric, key, setting, part, runner.cfg)


def scored_sets(cfg: Config, split: str, dataset: Dataset) -> Iterator[tuple[str, Mapping, Dataset]]:
    """The metrics of a config: the key and the config of each one, and the data set that it scores.

    Args:
        cfg: Config of the run.
        split: ``'val'`` or ``'test'``.
        dataset: The data set of this split.
    """
    key, settings = f'{split}_evaluator', cfg.get(f'{split}_evaluator')
    if isinstance(settings, Mapping) and type_name(settings) == 'MultiDatasetsEvaluator':
        for i, (setting, part) in enumerate(zip(settings['metrics'], getattr(dataset, 'datasets', ()), strict=False)):
            yield f'{key}.metrics.{i}', setting, part
    elif isinstance(settings, Mapping):
        yield key, settings, dataset
    elif isinstance(settings, Sequence):
        for i, setting in enumerate(settings):
            if isinstance(setting, Mapping):
                yield f'{key}.{i}', setting, dataset
