"""Atomic files: a file is there whole or not at all, whatever happens while it is written."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from backbones.errors import UserError


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Write a file atomically: the body writes to the temporary path that it is given.

    After the body, the content is flushed to the disk, and the file gets its name. If the body fails, what was at
    ``path`` before is still there.

    Args:
        path: The file to write. Missing folders are made.

    Yields:
        The temporary path. It has the ending of ``path``, since many writers choose their format by it.

    Raises:
        UserError: If the file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f'.{os.getpid()}.part.{path.name}')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        temporary.replace(path)
        if os.name == 'posix':  # Windows cannot open a folder
            _flush(path.parent)
    except OSError as error:
        raise UserError(
            f'cannot write {path}: {error.strerror or error}; nothing that was there before is lost'
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_json(path: str | Path, content: object) -> None:
    """Write a JSON file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + '\n')


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Write a new folder atomically: the body writes into the temporary folder that it is given.

    Args:
        path: The folder. It must not exist, or must be empty.

    Yields:
        The temporary folder, beside ``path``.

    Raises:
        UserError: If there is something at ``path``, or if the folder cannot be written.
    """
    path = Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UserError(f'{path} is there already, and nothing is overwritten: name a new folder, or remove it')
    temporary = path.with_name(f'.{os.getpid()}.part.{path.name}')
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            path.rmdir()
        temporary.rename(path)
    except OSError as error:
        raise UserError(f'cannot write {path}: {error.strerror or error}') from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_folder(path: str | Path) -> None:
    """Make a folder for results if it does not exist.

    Raises:
        UserError: If files cannot be written to it.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise UserError(f'cannot write to {path}: {error.strerror or error}; name another folder') from error


class AtomicFileBackend(LocalBackend):
    """mmengine's backend for local files, but files are written atomically and read back."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes to a file.

        Raises:
            UserError: If they cannot be written, or if what is read back differs from them.
        """
        with atomic_file(filepath) as temporary:
            temporary.write_bytes(obj)
            with temporary.open('rb') as file:
                for start in range(0, len(obj), 1 << 24):
                    if file.read(1 << 24) != obj[start : start + (1 << 24)]:
                        raise UserError(f'{filepath}: the disk returns other bytes than were written: check the disk')


register_backend('atomic', AtomicFileBackend)
register_backend('whole', AtomicFileBackend)  # its name before version 0.2


def _flush(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
