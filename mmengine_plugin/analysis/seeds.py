"""Runs of one config that differ in their seed alone: their scores, and how far these spread."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS, init_default_scope

from backbones.errors import UserError, did_you_mean

from ..checks.scores import score_names
from .sweep_record import RECORD, SCORES, read_record

KINDS = ('final', 'best')  # of the validations of a run
Scores = dict[str, dict[str, dict]]  # by the names of scores and the kinds


def check_evaluator(cfg: Config, names: Sequence[str]) -> None:
    """Check that the ``val_evaluator`` of a config gives scores, if it is known before a run which ones it gives.

    Raises:
        UserError: If it does not give one of them.
    """
    if cfg.val_cfg.get('type') == 'TeacherStudentValLoop':  # mmdet's, which puts the model before each name
        return
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    known: set[str] = set()
    for settings in cfg.val_evaluator if isinstance(cfg.val_evaluator, list) else [cfg.val_evaluator]:
        try:
            metric = METRICS.build(settings)
            given = score_names(metric) if isinstance(metric, BaseMetric) else None
        except (OSError, TypeError, UserError):  # it needs the data, of whose faults the first run tells more
            return
        if given is None:
            return
        known |= given
    if known:  # a model may also return losses of a validation
        check_names([name for name in names if 'loss' not in name], known, 'val_evaluator')


def check_names(names: Sequence[str], known: Collection[str], where: object) -> None:
    """Check that scores are known.

    Raises:
        UserError: If one is not; the message says ``where``, and which there are.
    """
    for name in names:
        if name not in known:
            known = sorted(set(known) - {'step'})
            raise UserError(f'{where} has no score {name}{did_you_mean(name, known)}; it has {", ".join(known)}')


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


def read_scores(folder: Path, names: Sequence[str] = ()) -> list[dict[str, float]]:
    """Read what :func:`validations` returned for a complete seed.

    Raises:
        UserError: If the file is damaged, if there was no validation, or if there is no score of one of these names.
    """
    path = folder / SCORES
    try:
        scores = [dict(line) for line in json.loads(path.read_text())]
    except (ValueError, TypeError) as error:
        raise UserError(f'{path} is damaged: remove it, and start the sweep again, which writes it anew') from error
    if not scores:
        raise UserError(f'{folder} has no validation: set train_cfg.val_interval so that the run has one')
    check_names(names, scores[-1], folder)
    return scores


def read_sweep(work_dir: Path, seeds: Sequence[int] = (), names: Sequence[str] = ()) -> Scores:
    """Read and summarize the scores of a sweep. Folders of seeds that it has not begun do not belong to it.

    Args:
        work_dir: Its folder.
        seeds: Seeds that are complete (default: all that are).
        names: Scores (default: all). Those that are not defined in all validations are left out.

    Raises:
        UserError: If fewer than two seeds are complete, or one of ``seeds`` is not, if there is no score of one of
            these names, or if a file is damaged.
    """
    complete = [seed for seed in read_record(work_dir)[1] if (work_dir / f'seed_{seed}' / SCORES).exists()]
    if not complete:
        raise UserError(f'{work_dir} has no complete seed of a sweep: a sweep writes {RECORD} and seed_*/{SCORES}')
    for seed in seeds:
        if seed not in complete:
            raise UserError(f'{work_dir} has no complete seed {seed}; it has {", ".join(map(str, complete))}')
    runs = {seed: read_scores(work_dir / f'seed_{seed}', names) for seed in seeds or complete}
    scores = summarize(runs)
    chosen = {name: scores[name] for name in names or scores if name in scores}
    if not chosen:
        raise UserError(
            f'{work_dir}: no score{" of these" if names else ""} is defined in all validations of all seeds'
        )
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
