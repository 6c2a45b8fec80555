"""Runs of one config that differ in their seed alone: their scores, and how far these spread."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.config import Config

from backbones.errors import UserError

from ..atomic_files import write_json
from ..engine.changed_settings import flatten

SCORES = 'scores.json'  # in the folder of a seed whose training has ended
SETTINGS = 'sweep.json'  # in the folder of a sweep
# what scores depend on besides the seed; the loading of data has settings on which no number depends
SECTIONS = ('model', 'load_from', 'optim_wrapper', 'param_scheduler', 'train_dataloader', 'train_cfg', 'auto_scale_lr')
SECTIONS += ('custom_hooks', 'val_dataloader', 'val_evaluator', 'randomness')
NOT_COMPARED = ('randomness.seed', 'num_workers', 'persistent_workers', 'prefetch_factor', 'pin_memory')

KINDS = ('final', 'best')  # of the validations of a run
Scores = dict[str, dict[str, dict]]  # by the names of scores and the kinds


def check_settings(work_dir: Path, cfg: Config, **others: object) -> None:
    """Record the settings of a sweep when it begins, and compare them when it goes on.

    Args:
        work_dir: Folder of the sweep.
        cfg: Its config.
        **others: What else the runs depend on.

    Raises:
        UserError: If the sweep was begun with other settings.
    """
    now = dict(others)
    for section in SECTIONS:
        now |= {key: value for key, value in flatten(cfg.get(section), section) if not key.endswith(NOT_COMPARED)}
    path = work_dir / SETTINGS
    if not path.exists():
        write_json(path, now)
        return
    before = json.loads(path.read_text())
    lines = [
        f'{key}: {before.get(key, "not set")} -> {now.get(key, "not set")}'
        for key in before | now
        if before.get(key) != now.get(key)
    ]
    if lines:
        more = f' and {len(lines) - 5} more' if len(lines) > 5 else ''
        raise UserError(
            f'{work_dir} has a sweep with other settings, {"; ".join(lines[:5])}{more}: seeds can be compared only '
            'under the same ones. Give the earlier ones, or begin another sweep with another --work-dir'
        )


def validations(work_dir: Path) -> list[dict[str, float]]:
    """Read the scores of all validations of a run, which may have been interrupted and resumed.

    Each resumption writes a log of its own. Where two have a validation at the same step, the later one counts.

    Args:
        work_dir: Work directory of the run.

    Returns:
        For each validation its scores, and its ``step``: an epoch, or an iteration in a run by iterations.
    """
    found = {}
    for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            try:
                values = json.loads(line)
            except json.JSONDecodeError:  # a kill has cut it off
                continue
            if 'iter' not in values:  # which lines of the training have
                found[values['step']] = {k: v for k, v in values.items() if k not in ('time', 'data_time', 'memory')}
    return [found[step] for step in sorted(found)]


def read_sweep(work_dir: Path, seeds: Sequence[int] = (), names: Sequence[str] = ()) -> Scores:
    """Read and summarize the scores of a sweep.

    Args:
        work_dir: Its folder.
        seeds: Seeds that are complete (default: all that are).
        names: Scores (default: all).

    Raises:
        UserError: If fewer than two seeds are complete, or if there is no score of these names.
    """
    runs = {int(path.parent.name[5:]): json.loads(path.read_text()) for path in work_dir.glob(f'seed_*/{SCORES}')}
    if not runs:
        raise UserError(f'{work_dir} has no complete seed of a sweep: a sweep writes seed_*/{SCORES}')
    scores = summarize({seed: runs[seed] for seed in seeds or sorted(runs)})
    chosen = {name: scores[name] for name in names or scores if name in scores}
    if not chosen:
        raise UserError(f'{work_dir} has no score {" or ".join(names)}; it has {", ".join(scores)}')
    return chosen


def summarize(runs: Mapping[int, Sequence[Mapping[str, float]]]) -> Scores:
    """Summarize the scores of several seeds.

    Args:
        runs: By its seed, what :func:`validations` returns for each run.

    Returns:
        By its name, each score that all runs have: ``final`` and ``best`` with the value of each seed (``seeds``),
        ``mean``, ``std`` (of a sample: n - 1), ``min`` and ``max``. The best value of a loss is the lowest, that of
        another score the highest. Scores that are not defined (nan; -1 in COCO) are left out.

    Raises:
        UserError: If there are fewer than two runs.
    """
    if len(runs) < 2:
        raise UserError('one seed: no spread. Name two or more, as in --seeds 0 1 2')
    result: Scores = {}
    for name in next(iter(runs.values()))[-1]:
        curves = {seed: [scores.get(name, math.nan) for scores in run] for seed, run in runs.items()}
        if name == 'step' or any(math.isnan(value) or value == -1 for curve in curves.values() for value in curve):
            continue
        best = min if 'loss' in name else max
        result[name] = dict(
            final=spread({seed: curve[-1] for seed, curve in curves.items()}),
            best=spread({seed: best(curve) for seed, curve in curves.items()}),
        )
    return result


def spread(values: Mapping[int, float]) -> dict:
    """Mean, standard deviation of a sample and range of one value for each seed."""
    numbers = list(values.values())
    mean, std = statistics.mean(numbers), statistics.stdev(numbers)
    return dict(seeds=dict(values), mean=mean, std=std, min=min(numbers), max=max(numbers))


def differences(sweeps: Mapping[str, Scores]) -> dict[str, Scores]:
    """Compare the means of several sweeps with those of the first one.

    Args:
        sweeps: By its name, what :func:`summarize` returns for each sweep.

    Returns:
        For each sweep but the first, for each score that all have, for ``final`` and ``best``: ``mean``, which is
        positive if this sweep has the higher mean, and ``error``, the standard error of the difference. It does not
        assume that the variances are equal (Welch).
    """
    first, *others = sweeps.values()
    common = [name for name in first if all(name in scores for scores in others)]
    return {
        key: {name: {kind: _difference(first[name][kind], scores[name][kind]) for kind in KINDS} for name in common}
        for key, scores in list(sweeps.items())[1:]
    }


def _difference(one: Mapping, other: Mapping) -> dict[str, float]:
    variances = [side['std'] ** 2 / len(side['seeds']) for side in (one, other)]
    return dict(mean=other['mean'] - one['mean'], error=math.sqrt(sum(variances)))


def table(scores: Scores) -> str:
    """A Markdown table of the scores of one sweep: each seed, mean, standard deviation and range."""
    seeds = next(iter(scores.values()))['final']['seeds']
    rows = [['score', 'validation', *(f'seed {seed}' for seed in seeds), 'mean', 'std', 'range']]
    for name, kinds in scores.items():
        for kind, found in kinds.items():
            values = [f'{value:.4g}' for value in (*found['seeds'].values(), found['mean'])]
            rows.append([name, kind, *values, f'{found["std"]:.2g}', f'{found["min"]:.4g} to {found["max"]:.4g}'])
    return markdown(rows)


def comparison(sweeps: Mapping[str, Scores]) -> str:
    """A Markdown table of several sweeps side by side; differences are from the first one, with standard errors."""
    first, *others = sweeps
    found = differences(sweeps)
    rows = [['score', 'validation', *(f'{name}: mean ± std' for name in sweeps), *(f'{x} - {first}' for x in others)]]
    for name in found[others[0]]:
        for kind in KINDS:
            means = [scores[name][kind] for scores in sweeps.values()]
            apart = [found[other][name][kind] for other in others]
            cells = [f'{value["mean"]:.4g} ± {value["std"]:.2g} (n = {len(value["seeds"])})' for value in means]
            rows.append([name, kind, *cells, *(f'{value["mean"]:+.3g} ± {value["error"]:.2g}' for value in apart)])
    return markdown(rows)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, whose first row is its header."""
    lines = [f'| {" | ".join(row)} |' for row in rows]
    return '\n'.join([lines[0], '| --- ' * len(rows[0]) + '|', *lines[1:]])
