"""The files below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator


def files_below(folder: str) -> Iterator[str]:
    """The paths of all files below a folder, relative to it and with forward slashes.

    Links to folders are followed, except those that lead back to a folder on their own path. Files and folders whose
    names begin with a dot are listed, too. Folders that may not be read are left out.

    Args:
        folder: A folder of this machine.
    """
    yield from _files_below(folder, '', frozenset())


def _files_below(folder: str, prefix: str, above: frozenset[str]) -> Iterator[str]:
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except PermissionError:
        return
    for entry in entries:
        if _is_folder(entry):
            yield from _files_below(entry.path, f'{prefix}{entry.name}/', above | {real})
        else:
            yield prefix + entry.name


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
