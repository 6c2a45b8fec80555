"""Whether the schedule of the learning rate fits the length of the run."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.config import Config
from mmengine.optim.scheduler.param_scheduler import INF, ConstantParamScheduler, LinearParamScheduler
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner

from .run_part import numbered


def warn_of_schedule(runner: Runner, loop: BaseLoop) -> None:
    """Log a warning if the schedule ends after the run or before it, or if a cosine rises again within the run.

    Each scheduler is counted in its own unit, epochs or iterations. A warm-up alone may end before the run, because the
    learning rate is constant after it.
    """
    found = schedulers(runner)
    run_key = 'train_cfg.max_epochs' if isinstance(loop, EpochBasedTrainLoop) else 'train_cfg.max_iters'
    too_long, settings, ends = [], [], []
    for key, scheduler in found:
        unit, length = ('epoch', loop.max_epochs) if scheduler.by_epoch else ('iteration', loop.max_iters)
        name = f'{key} ({type(scheduler).__name__})'
        converted = _is_converted(runner.cfg, key)
        per_unit = len(loop.dataloader) if converted else 1
        setting = f'{key}.end={length / per_unit:.9g}'
        if hasattr(scheduler, 'T_max'):
            setting += f' and {key}.T_max={(length - scheduler.begin) / per_unit:.9g}'
            if scheduler.T_max < min(scheduler.end, length) - scheduler.begin:
                runner.logger.warning(
                    f'THE SCHEDULE RISES AGAIN: {name} falls for T_max={scheduler.T_max / per_unit:.9g} only. '
                    f'Set {setting}'
                )
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
    if any(not _is_warm_up(scheduler) for _, scheduler in found):
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
    configs = dict(numbered('param_scheduler', cfg.get('param_scheduler')))
    return isinstance(configs.get(key), Mapping) and bool(configs[key].get('convert_to_iter_based'))


def schedulers(runner: Runner) -> list[tuple[str, object]]:
    """The schedulers by their keys in the config; none if there are several optimizers, each with a list of its own."""
    found = runner.param_schedulers
    if not isinstance(found, list):
        return []
    if isinstance(runner.cfg.get('param_scheduler'), Mapping):  # a single one may be written without a list
        return [('param_scheduler', scheduler) for scheduler in found]
    return numbered('param_scheduler', found)
