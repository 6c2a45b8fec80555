"""Files that are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mmengine.fileio import LocalBackend, register_backend

from backbones.errors import UserError


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Write a file whole or not at all: gives the path to write to, which is on the disk when it gets its name.

    Raises:
        UserError: If it cannot be written; what was there before is then as it was.
    """
    path = Path(path)
    temporary = path.with_name(f'.{os.getpid()}.part.{path.name}')  # with the ending, by which writers choose a format
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise UserError(
            f'cannot write {path}: {error.strerror or error}; nothing that was there before is lost'
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_json(path: str | Path, content: object) -> None:
    """Write a JSON file whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + '\n')


def make_folder(path: str | Path) -> None:
    """Make a folder for results if need be, and raise a :class:`UserError` if nothing can be written there."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise UserError(f'cannot write to {path}: {error.strerror or error}; name another folder') from error


class WholeFileBackend(LocalBackend):
    """mmengine's file backend for this machine, whose files are there whole, read back, or not at all."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes; :class:`UserError` if they cannot be written or are not what is read back."""
        with whole_file(filepath) as temporary:
            temporary.write_bytes(obj)
            with temporary.open('rb') as file:
                for start in range(0, len(obj), 1 << 24):
                    if file.read(1 << 24) != obj[start : start + (1 << 24)]:
                        raise UserError(f'{filepath}: what is read back is not what was written: look at the disk')


register_backend('whole', WholeFileBackend)


def _sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
