"""Images that are in the training set and in the validation set. Scores on them are too high."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from torch.utils.data import Dataset

from .wrapped_sets import leaves

MOST_LISTED = 300_000  # images; a list of them takes about ten seconds


def shared_by_path(train: Dataset, val: Dataset) -> str | None:
    """Describe the validation images that are training images, too, by their paths.

    Sets whose image folders lie apart, or that have more than :data:`MOST_LISTED` images, are not looked at, since a
    list of all images takes long for large sets.

    Args:
        train: Training set.
        val: Validation set.

    Returns:
        A sentence; ``None`` if there are none.
    """
    folders = {folder for leaf in leaves(val) if (folder := _folder(leaf))}
    near = [leaf for leaf in leaves(train) if any(_is_within(_folder(leaf), folder) for folder in folders)]
    if not near or sum(map(len, near)) + len(val) > MOST_LISTED:
        return None
    paths = list(image_paths(val))
    known = set(paths)
    shared = {path for leaf in near for path in image_paths(leaf) if path in known}
    return _described([path for path in paths if path in shared], len(paths))


def shared_by_content(train: Dataset, val: Dataset) -> str | None:
    """Describe the validation images that have the same bytes as a training image.

    Args:
        train: Training set.
        val: Validation set.

    Returns:
        A sentence; ``None`` if there are none.
    """
    sizes: dict[int, list[str]] = defaultdict(list)
    paths = [path for path in image_paths(val) if os.path.isfile(path)]
    for path in image_paths(train):
        if os.path.isfile(path):
            sizes[os.path.getsize(path)].append(path)

    @functools.cache
    def digests(size: int) -> set[bytes]:
        return set(map(_digest, sizes[size]))

    shared = []
    for path in paths:
        size = os.path.getsize(path)
        if size in sizes and _digest(path) in digests(size):
            shared.append(path)
    return _described(shared, len(paths))


def image_paths(dataset: Dataset) -> Iterator[str]:
    """The paths of the images of a data set on this machine, with symbolic links of their folders resolved."""
    real = functools.cache(os.path.realpath)
    for leaf in leaves(dataset):
        if not hasattr(leaf, 'get_data_info') or getattr(leaf, 'backend_args', None):
            continue
        for index in range(len(leaf)):
            path = leaf.get_data_info(index).get('img_path')
            if isinstance(path, str):
                folder, name = os.path.split(path)
                yield os.path.join(real(folder), name)


def _folder(leaf: Dataset) -> str | None:
    prefix = getattr(leaf, 'data_prefix', None) or {}
    folder = prefix.get('img_path') or prefix.get('img')
    return os.path.realpath(folder) if isinstance(folder, str) else None


def _is_within(first: str | None, second: str) -> bool:
    """Whether one folder is the other one or is in it."""
    return first is not None and os.path.commonpath([first, second]) in (first, second)


def _digest(path: str) -> bytes:
    return hashlib.blake2b(Path(path).read_bytes()).digest()


def _described(shared: Sequence[str], number: int) -> str | None:
    if not shared:
        return None
    return (
        f'{len(shared)} of the {number} validation images are also training images, the first is {shared[0]}: the '
        'scores will be too high. Validate on other images'
    )
