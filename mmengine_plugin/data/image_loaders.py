"""The transform that loads the images of a pipeline."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torch.utils.data import Dataset


def split_loader(transforms: Sequence[Callable]) -> tuple[Callable | None, list[Callable]]:
    """Split a pipeline into the transform that loads the image, such as LoadImageFromFile, and those after it.

    Returns:
        The loader, ``None`` if there is none, and the transforms that follow it.
    """
    for i, transform in enumerate(transforms):
        if re.match('Load.*Image', type(transform).__name__):
            return transform, list(transforms[i + 1 :])
    return None, list(transforms)


def loader_of(dataset: Dataset) -> Callable | None:
    """Find the transform that loads the images of a data set.

    Args:
        dataset: A data set of mmengine, or a wrapper of one. If a wrapper joins several, the first counts.

    Returns:
        The loader, or ``None`` if there is none.
    """
    while not hasattr(dataset, 'pipeline'):
        parts = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
        dataset = parts[0]
        if dataset is None:
            return None
    return split_loader(getattr(dataset.pipeline, 'transforms', ()))[0]
