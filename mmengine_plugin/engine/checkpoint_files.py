"""The checkpoint files of a work directory: which ones exist, and which is the newest good one."""

from __future__ import annotations

import logging
import os
import re
import zipfile
from pathlib import Path

from mmengine.logging import print_log

from backbones.errors import UserError
from backbones.safe_checkpoint import read_checkpoint

from ..atomic_files import atomic_file

INTERRUPTED = 'interrupted.pth'  # saved when a signal asked the run to stop


def note_last_checkpoint(work_dir: str | Path, checkpoint: str | Path) -> None:
    """Write the newest checkpoint's path to ``last_checkpoint``, relative to the work directory, which may be moved."""
    with atomic_file(Path(work_dir, 'last_checkpoint')) as temporary:
        temporary.write_text(os.path.relpath(checkpoint, work_dir))


def checkpoints(work_dir: str | Path) -> list[Path]:
    """The checkpoints of a work directory that can be resumed: an interrupted run's, then the newest first."""
    numbered = {}
    for path in Path(work_dir).glob('*.pth'):
        if match := re.fullmatch(r'(?!best_|\.).*?(\d+)', path.stem):
            numbered[int(match[1])] = path
    interrupted = Path(work_dir, INTERRUPTED)
    found = [numbered[number] for number in sorted(numbered, reverse=True)]
    return [interrupted, *found] if interrupted.exists() else found


def last_checkpoint(work_dir: str | Path) -> Path | None:
    """The newest good checkpoint of a work directory, or ``None`` if there are no checkpoints.

    Raises:
        UserError: If there are checkpoints, and all are damaged.
    """
    iterations: dict[Path, int] = {}  # of the good ones
    candidates, note = checkpoints(work_dir), Path(work_dir, 'last_checkpoint')
    named = Path(work_dir, note.read_text() if note.exists() else '')
    if named.is_file():  # it comes before newer ones, which belong to an abandoned run
        candidates = [named, *(path for path in candidates if path != named)]
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
            f'all {len(candidates)} checkpoints in {work_dir} are damaged, the first is {candidates[0]}: resume from a '
            'copy by --resume FILE, or start anew in another --work-dir'
        )
    return max(iterations, key=iterations.get, default=None)
