"""The record of a sweep: under which settings it runs, and which seeds it has begun."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from backbones.errors import UserError

from ..atomic_files import write_json
from ..engine.changed_settings import flatten

SCORES = 'scores.json'  # in the folder of a seed whose training has ended
RECORD = 'sweep.json'  # in the folder of a sweep: its settings, and the seeds that it has begun
# what scores depend on besides the seed; the loading of data has settings on which no number depends
SECTIONS = ('model', 'load_from', 'optim_wrapper', 'param_scheduler', 'train_dataloader', 'train_cfg', 'auto_scale_lr')
SECTIONS += ('custom_hooks', 'val_dataloader', 'val_evaluator', 'randomness')
NOT_COMPARED = ('randomness.seed', 'num_workers', 'persistent_workers', 'prefetch_factor', 'pin_memory')


def check_settings(work_dir: Path, cfg: Config, **others: object) -> None:
    """Record the settings of a sweep when it begins, and compare them when it goes on.

    Args:
        work_dir: Folder of the sweep.
        cfg: Its config.
        **others: What else the runs depend on.

    Raises:
        UserError: If the sweep has begun a seed with other settings, or if its record is damaged.
    """
    now = dict(others)
    for section in SECTIONS:
        now |= {key: value for key, value in flatten(cfg.get(section), section) if not key.endswith(NOT_COMPARED)}
    before, begun = read_record(work_dir)
    if not begun:
        write_json(work_dir / RECORD, dict(settings=now, seeds=[]))
        return
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


def read_record(work_dir: Path) -> tuple[dict[str, object], list[int]]:
    """Read what a sweep has recorded: its settings, and the seeds that it has begun. Both are empty before it begins.

    Raises:
        UserError: If the record is damaged.
    """
    path = work_dir / RECORD
    try:
        record = json.loads(path.read_text())
        return dict(record['settings']), [int(seed) for seed in record['seeds']]
    except FileNotFoundError:
        return {}, []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{path} is damaged, so the seeds and settings of this sweep are not known: restore the file from a '
            'copy, or begin another sweep with another --work-dir'
        ) from error


def check_seeds(work_dir: Path, seeds: Sequence[int]) -> None:
    """Check that all that is in the folders of these seeds comes from the sweep itself.

    Raises:
        UserError: If there is a run that the sweep has not begun: its settings and its seed may be others.
    """
    for seed in set(seeds) - set(read_record(work_dir)[1]):
        folder = work_dir / f'seed_{seed}'
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise UserError(
                f'{folder} was not begun by this sweep, so its seed and settings may be others: move it '
                f'(mv {folder} {folder}_other), or name another --work-dir'
            )


def begin_seed(work_dir: Path, seed: int) -> None:
    """Record that the sweep begins a seed, or goes on with it.

    Raises:
        UserError: As :func:`check_seeds`.
    """
    check_seeds(work_dir, [seed])
    settings, begun = read_record(work_dir)
    write_json(work_dir / RECORD, dict(settings=settings, seeds=sorted({*begun, seed})))
