"""The checkpoint files of a work directory: which ones exist, and which is the newest good one."""

from __future__ import annotations

import logging
import os
import re
import zipfile
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log

from backbones.errors import UserError
from backbones.safe_checkpoint import read_checkpoint

from ..atomic_files import atomic_file

INTERRUPTED = 'interrupted.pth'  # saved when a signal asked the run to stop


def note_last_checkpoint(work_dir: str | Path, checkpoint: str | Path) -> None:
    """Write the newest checkpoint's path to ``last_checkpoint``, relative to the work directory, which may be moved."""
    with atomic_file(Path(work_dir, 'last_checkpoint')) as temporary:
        temporary.write_text(os.path.relpath(checkpoint, work_dir))


def checkpoint_place(cfg: Config) -> dict[str, str | None]:
    """Where a run puts its checkpoints: the arguments ``out_dir`` and ``filename_tmpl`` of :func:`checkpoints`.

    Raises:
        UserError: If ``out_dir`` is not a local folder.
    """
    hook = cfg.get('default_hooks', {}).get('checkpoint') or {}
    place = {key: hook.get(key) for key in ('out_dir', 'filename_tmpl')}
    if '://' in str(place['out_dir']):
        raise UserError(f'default_hooks.checkpoint.out_dir={place["out_dir"]} is not a local folder')
    return place


def checkpoints(work_dir: str | Path, out_dir: str | None = None, filename_tmpl: str | None = None) -> list[Path]:
    """The checkpoints of a run that can be resumed: that of an interrupted run, then the newest first.

    Args:
        work_dir: The work directory of the run.
        out_dir: The argument of mmengine's CheckpointHook: a folder that has a folder with checkpoints for each work
            directory. By default, they are in the work directory itself.
        filename_tmpl: The argument of mmengine's CheckpointHook: the name of a checkpoint, with ``{}`` in place of the
            epoch or iteration. Names such as ``epoch_3.pth`` are always found.
    """
    names = [r'(?:epoch|iter)_(\d+)\.pth']
    if filename_tmpl:
        names.append(r'(\d+)'.join(map(re.escape, re.split(r'\{.*?\}', filename_tmpl))))
    folder = Path(out_dir, Path(work_dir).name) if out_dir else Path(work_dir)
    numbers = {}
    for path in folder.glob('*'):
        for match in filter(None, (re.fullmatch(name, path.name) for name in names)):
            numbers[path] = int(match[1]) if match.lastindex else 0
    interrupted = Path(work_dir, INTERRUPTED)
    found = sorted(numbers, key=numbers.get, reverse=True)
    return [interrupted, *found] if interrupted.exists() else found


def last_checkpoint(work_dir: str | Path, **place: str | None) -> Path | None:
    """The newest good checkpoint of a run, or ``None`` if there are no checkpoints.

    Args:
        work_dir: The work directory of the run.
        **place: ``out_dir`` and ``filename_tmpl``, as in :func:`checkpoints`.

    Raises:
        UserError: If there are checkpoints, and all are damaged.
    """
    iterations: dict[Path, int] = {}  # of the good ones
    candidates, note = checkpoints(work_dir, **place), Path(work_dir, 'last_checkpoint')
    named = Path(work_dir, note.read_text() if note.exists() else '')
    if named.is_file():  # it comes before newer ones, which belong to an abandoned run
        candidates = [named, *(path for path in candidates if not path.samefile(named))]
    for path in candidates:
        try:
            with zipfile.ZipFile(path) as archive:  # PyTorch does not compare the checksums
                if broken := archive.testzip():
                    raise UserError(f'the checksum of {broken} in it does not match its content')
            iterations[path] = read_checkpoint(path)['meta']['iter']
        except Exception as error:  # readers raise all kinds of exceptions for damaged files
            print_log(f'checkpoint {path} is damaged and skipped: {error}', 'current', logging.WARNING)
        if path in iterations and (path == named or path.name != INTERRUPTED):
            break  # the others are older
    if candidates and not iterations:
        raise UserError(
            f'all {len(candidates)} checkpoints of {work_dir} are damaged, the first is {candidates[0]}: resume from a '
            'copy by --resume FILE, or start anew in another --work-dir'
        )
    return max(iterations, key=iterations.get, default=None)
