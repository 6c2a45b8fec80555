"""Checks before the first step: a run that would fail late is refused, and a schedule that does not fit is reported."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping, Sequence

from mmengine.config import Config
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.optim.scheduler.param_scheduler import INF, ConstantParamScheduler, LinearParamScheduler
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner
from torch.utils.data import Dataset

from backbones.errors import UserError, did_you_mean

from ..compat.private_names import training_loop
from ..data.image_channels import check_first_image
from .batch_norms import check_batch_norms
from .first_sample import check_first_sample, check_label_map
from .map_channels import check_map_channels
from .test_time_augmentation import check_test_time_augmentation


@HOOKS.register_module()
class CheckRunHook(Hook):
    """Refuses a run that would fail late, and warns if the schedule and the run differ in length.

    Before a training, it checks the channels of the neck and the heads, the number of images that batch norms see, the
    pipelines on one sample each, the annotation file of the validation, and the scores by which checkpoints are chosen.
    Before a validation or a test, it checks the annotation file.

    Raises:
        UserError: If a check fails; the message names the setting and its right value.
    """

    priority = 'VERY_HIGH'  # before CompileBackboneHook, since the backbone is run once

    def before_run(self, runner: Runner) -> None:
        """Check a training before its weights are downloaded."""
        loop = training_loop(runner)
        if not isinstance(loop, BaseLoop):  # the run is a validation or a test
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        check_map_channels(model, runner.cfg)
        check_batch_norms(model, loop, runner.cfg)
        check_first_image(model, loop.dataloader.dataset)
        check_first_sample(loop.dataloader.dataset, 'train_dataloader.dataset')
        if runner.val_loop is not None:
            check_first_image(model, runner.val_dataloader.dataset)
            sample = check_first_sample(runner.val_dataloader.dataset, 'val_dataloader.dataset')
            check_label_map(sample, runner.val_evaluator.metrics)
            check_annotation_file(runner.cfg, 'val', runner.val_dataloader.dataset)
            check_class_numbers(runner, 'val')
            check_monitored_scores(runner)
        check_class_numbers(runner, 'train')
        warn_of_schedule(runner, loop)

    def before_val(self, runner: Runner) -> None:
        """Check the annotation file of the validation."""
        check_annotation_file(runner.cfg, 'val', runner.val_dataloader.dataset)
        check_class_numbers(runner, 'val')

    def before_test(self, runner: Runner) -> None:
        """Check the annotation file of the test, the channels of its images, and the test-time augmentation."""
        check_first_image(runner.model, runner.test_dataloader.dataset)
        check_annotation_file(runner.cfg, 'test', runner.test_dataloader.dataset)
        check_class_numbers(runner, 'test')
        check_test_time_augmentation(runner.model)


def check_annotation_file(cfg: Config, split: str, dataset: Dataset) -> None:
    """Check that the evaluator reads the annotation file of the data set.

    Args:
        cfg: Config of the run.
        split: ``'val'`` or ``'test'``.
        dataset: The data set of this split. Without an ``ann_file`` of its own, as in a concatenation, nothing is
            checked.

    Raises:
        UserError: If it reads another file.
    """
    of_data = getattr(dataset, 'ann_file', None)
    metrics = _numbered(f'{split}_evaluator', cfg.get(f'{split}_evaluator'))
    read = {
        key: metric['ann_file'] for key, metric in metrics if isinstance(metric, Mapping) and metric.get('ann_file')
    }
    if not of_data or not read or os.path.realpath(of_data) in map(os.path.realpath, read.values()):
        return  # another metric may read a file of its own: that of the boxes beside that of a panoptic segmentation
    key, of_metric = next(iter(read.items()))
    raise UserError(
        f'{key}.ann_file is {of_metric}, but the images of {split}_dataloader are those of {of_data}: set '
        f'{key}.ann_file={of_data}, or dataset.ann_file in {split}_dataloader'
    )


def check_class_numbers(runner: Runner, split: str) -> None:
    """Check that the data set and the metrics of a split number the classes alike.

    Args:
        runner: The run.
        split: ``'train'``, ``'val'`` or ``'test'``.

    Raises:
        UserError: If one of them numbers classes in another order than ``metainfo.classes``.
    """
    dataset = getattr(runner, f'{split}_dataloader').dataset
    class_order(dataset, f'{split}_dataloader.dataset', getattr(dataset, 'ann_file', None))
    if split != 'train':
        settings = _numbered(f'{split}_evaluator', runner.cfg.get(f'{split}_evaluator'))
        for (key, setting), metric in zip(settings, getattr(runner, f'{split}_evaluator').metrics, strict=False):
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


@functools.singledispatch
def score_names(metric: BaseMetric) -> set[str] | None:
    """List the scores that a metric returns.

    The plugins register implementations for the metrics of mmdet and mmseg.

    Args:
        metric: A metric that has its ``dataset_meta``.

    Returns:
        Names of the scores, with the prefix of the metric; ``None`` if they are not known.
    """
    return None


def check_monitored_scores(runner: Runner) -> None:
    """Check that the validation gives the scores by which checkpoints are chosen, a run is stopped or lr is reduced.

    Raises:
        UserError: If it does not give one of them; the message suggests the nearest one.
    """
    if type(runner.val_evaluator) is not Evaluator:  # it may give names of its own to the scores
        return
    by_metric = [score_names(metric) for metric in runner.val_evaluator.metrics]
    if None in by_metric:
        return
    known = sorted(set().union(*by_metric))
    if type(runner.val_loop).__name__ == 'TeacherStudentValLoop':  # mmdet's, which scores two models
        known = [f'{model}/{name}' for model in ('teacher', 'student') for name in known]
    for key, name in _monitored_scores(runner):
        if known and name not in known:  # without any score, as with format_only, mmengine only warns
            raise UserError(
                f'{key} is {name!r}, but the metrics of val_evaluator give no such score'
                f'{did_you_mean(name, known)}; they give {", ".join(known[:20])}'
            )


def _monitored_scores(runner: Runner) -> Iterator[tuple[str, str]]:
    """Names of scores that other parts of the run ask for, each with its key in the config."""
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.save_best:
            for name in hook.key_indicators:
                if name != 'auto':
                    yield 'default_hooks.checkpoint.save_best', name
        elif isinstance(hook, EarlyStoppingHook):
            yield 'monitor of EarlyStoppingHook', hook.monitor
    for key, scheduler in _schedulers(runner):
        if hasattr(scheduler, 'monitor'):
            yield f'{key}.monitor', scheduler.monitor


def warn_of_schedule(runner: Runner, loop: BaseLoop) -> None:
    """Log a warning if the schedule ends after the run, or before it.

    Each scheduler is counted in its own unit, epochs or iterations. A warm-up alone may end before the run, because the
    learning rate is constant after it.
    """
    schedulers = _schedulers(runner)
    run_key = 'train_cfg.max_epochs' if isinstance(loop, EpochBasedTrainLoop) else 'train_cfg.max_iters'
    too_long, settings, ends = [], [], []
    for key, scheduler in schedulers:
        unit, length = ('epoch', loop.max_epochs) if scheduler.by_epoch else ('iteration', loop.max_iters)
        name = f'{key} ({type(scheduler).__name__})'
        converted = _is_converted(runner.cfg, key)
        setting = f'{key}.end={length / len(loop.dataloader) if converted else length:.9g}'
        ends.append(
            (scheduler.end / length, f'{name} ends at {unit} {scheduler.end}, and the run at {length}', setting)
        )
        if length < scheduler.end < INF:
            too_long.append(ends[-1][1])
            settings.append(setting)
        milestones = sorted(getattr(scheduler, 'milestones', ()))
        missed = [m for m in milestones if scheduler.begin + m >= length]
        if missed:
            too_long.append(f'{name} never reaches its milestones {", ".join(map(str, missed))} in {length} {unit}s')
            settings.append(f'{key}.milestones')
    if too_long:
        runner.logger.warning(
            f'THE SCHEDULE IS LONGER THAN THE RUN: {"; ".join(too_long)}. Set {", ".join(settings)}, or a higher '
            f'{run_key}'
        )
    if any(not _is_warm_up(scheduler) for _, scheduler in schedulers):
        share, end, setting = max(ends)
        if share < 1:
            runner.logger.warning(
                f'THE SCHEDULE IS SHORTER THAN THE RUN: its last part, {end}. The learning rate is constant '
                f'in between. Set {setting}, or a lower {run_key}'
            )


def _is_warm_up(scheduler: object) -> bool:
    """Whether the value is the base value after the scheduler's end."""
    rises = isinstance(scheduler, LinearParamScheduler) and scheduler.start_factor <= scheduler.end_factor == 1
    return rises or isinstance(scheduler, ConstantParamScheduler)


def _is_converted(cfg: Config, key: str) -> bool:
    """Whether a scheduler counts iterations although its config counts epochs."""
    configs = dict(_numbered('param_scheduler', cfg.get('param_scheduler')))
    return isinstance(configs.get(key), Mapping) and bool(configs[key].get('convert_to_iter_based'))


def _schedulers(runner: Runner) -> list[tuple[str, object]]:
    """The schedulers by their keys in the config; none if there are several optimizers, each with a list of its own."""
    schedulers = runner.param_schedulers
    if not isinstance(schedulers, list):
        return []
    if isinstance(runner.cfg.get('param_scheduler'), Mapping):  # a single one may be written without a list
        return [('param_scheduler', scheduler) for scheduler in schedulers]
    return _numbered('param_scheduler', schedulers)


def _numbered(key: str, value: object) -> list[tuple[str, object]]:
    """The entries of a setting that may be a list or a single entry, each with its key."""
    if isinstance(value, Sequence):
        return [(f'{key}.{i}', entry) for i, entry in enumerate(value)]
    return [(key, value)]
