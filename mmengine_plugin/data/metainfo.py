"""The lists of ``metainfo`` in a config: names of classes, and their colours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from mmengine.config import Config


def metainfo_problems(cfg: Config) -> Iterator[str]:
    """Find class names that occur twice, and palettes that do not fit the classes.

    Args:
        cfg: A config of mmdet or mmseg.

    Yields:
        A message for each problem.
    """
    for split in ('train', 'val', 'test'):
        dataset = (cfg.get(f'{split}_dataloader') or {}).get('dataset')
        for key, metainfo in _metainfos(f'{split}_dataloader.dataset', dataset):
            classes, palette = metainfo.get('classes'), metainfo.get('palette')
            if not isinstance(classes, list | tuple):
                continue
            twice = [name for name, count in Counter(map(str, classes)).items() if count > 1]
            if twice:
                yield f'{key}.classes has {twice[0]!r} more than once: each class needs a name of its own'
            if isinstance(palette, str):
                yield (
                    f'{key}.palette is {palette!r}: write a list with a colour (red, green, blue) for each class, such '
                    f'as [(220, 20, 60), ...], or leave palette out'
                )
            elif palette and len(palette) != len(classes) and not _is_allowed(cfg, palette, classes):
                yield (
                    f'{key}.palette and classes differ in length, {len(palette)} and {len(classes)}: write one colour '
                    '(red, green, blue) for each class, or leave palette out'
                )


def _is_allowed(cfg: Config, palette: list, classes: list) -> bool:
    """Whether mmdet takes the first colours of a palette."""
    return cfg.get('default_scope') != 'mmseg' and len(palette) > len(classes)


def _metainfos(key: str, dataset: object) -> Iterator[tuple[str, Mapping]]:
    """The ``metainfo`` of a data set's config and of those in its wrappers, each with its key."""
    if not isinstance(dataset, Mapping):
        return
    if isinstance(dataset.get('metainfo'), Mapping):
        yield f'{key}.metainfo', dataset['metainfo']
    yield from _metainfos(f'{key}.dataset', dataset.get('dataset'))
    for i, part in enumerate(dataset.get('datasets') or ()):
        yield from _metainfos(f'{key}.datasets.{i}', part)
