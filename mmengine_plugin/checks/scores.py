"""Whether the validation gives the scores by which checkpoints are chosen, a run is stopped or lr is reduced."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.runner import Runner

from backbones.errors import UserError, did_you_mean

from .schedule import schedulers


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
    """Check that the validation gives the scores that hooks and schedulers ask for.

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
    for key, scheduler in schedulers(runner):
        if hasattr(scheduler, 'monitor'):
            yield f'{key}.monitor', scheduler.monitor
