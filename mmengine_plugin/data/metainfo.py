"""The lists of ``metainfo`` in a config: names of classes, and their colours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from mmengine.config import Config
from mmengine.registry import DATASETS


def metainfo_problems(cfg: Config) -> Iterator[str]:
    """Find class names that occur twice, and palettes that do not fit the classes.

    Args:
        cfg: A config of mmdet or mmseg.

    Yields:
        A message for each problem.
    """
    for split in ('train', 'val', 'test'):
        dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
        for key, part in _parts(f'{split}_dataloader.dataset', dataset):
            metainfo = part['metainfo']
            classes, palette = metainfo.get('classes'), metainfo.get('palette')
            if not isinstance(classes, list | tuple):
                continue
            twice = [name for name, count in Counter(map(str, classes)).items() if count > 1]
            if twice:
                yield f'{key}.classes has {twice[0]!r} more than once: each class needs a name of its own'
            if isinstance(palette, str) and cfg.get('default_scope') != 'mmseg':
                continue  # mmdet knows names of palettes
            if isinstance(palette, str):
                yield (
                    f'{key}.palette is {palette!r}: write a list with a colour (red, green, blue) for each class, such '
                    f'as [(220, 20, 60), ...], or leave palette out'
                )
            elif palette and not _fits(cfg, part, palette, classes):
                yield (
                    f'{key}.palette and classes differ in length, {len(palette)} and {len(classes)}: write one colour '
                    '(red, green, blue) for each class, or leave palette out'
                )


def _fits(cfg: Config, dataset: Mapping, palette: list, classes: list) -> bool:
    """Whether a palette has the colours of all classes.

    mmdet takes the first colours of a longer palette. mmseg takes those of the classes, if the palette is for all
    classes of the data set's type.
    """
    if len(palette) == len(classes) or cfg.get('default_scope') != 'mmseg':
        return len(palette) >= len(classes)
    type_ = dataset.get('type')
    if isinstance(type_, str):
        type_ = DATASETS.get(f'mmseg.{type_}') or DATASETS.get(type_)
    return len(palette) == len(getattr(type_, 'METAINFO', {}).get('classes', ()))


def _parts(key: str, dataset: object) -> Iterator[tuple[str, Mapping]]:
    """The config of a data set and of those in its wrappers that have ``metainfo``, each with the key of it."""
    if not isinstance(dataset, Mapping):
        return
    if isinstance(dataset.get('metainfo'), Mapping):
        yield f'{key}.metainfo', dataset
    yield from _parts(f'{key}.dataset', dataset.get('dataset'))
    for i, part in enumerate(dataset.get('datasets') or ()):
        yield from _parts(f'{key}.datasets.{i}', part)
