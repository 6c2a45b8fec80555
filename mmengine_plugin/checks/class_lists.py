"""The lists of classes of several data sets, compared with each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

from mmengine.config import Config
from mmengine.registry import DATASETS

from backbones.errors import UserError

from .pipelines import type_name

SPLITS = ('train', 'val', 'test')
LISTED = 20  # classes at most that a message lists to be pasted
TEXT_MODELS = ('language_model', 'text_encoder')  # parts of models that read class names as text


def class_list_problems(cfg: Config, splits: Sequence[str] = SPLITS) -> Iterator[str]:
    """Compare the classes of the data loaders of a config, without loading any data.

    Args:
        cfg: A config of mmdet or mmseg.
        splits: The data loaders to compare.

    Yields:
        A message for each data set of a concatenation, and each data loader, whose classes differ from the first one's.
        A model that reads class names as text may have data sets of different classes.
    """
    if any(part in cfg.get('model', {}) for part in TEXT_MODELS):
        return
    yield from concatenation_problems(cfg, splits)
    reference, expected = None, None
    for split in splits:
        loader = cfg.get(f'{split}_dataloader') or {}
        classes = _configured_classes(loader.get('dataset'), cfg.get('default_scope'))
        if classes is None:
            continue
        if expected is None:
            reference, expected = f'{split}_dataloader.dataset', classes
        elif difference := first_difference(expected, classes):
            yield (
                f'{split}_dataloader.dataset has other classes than {reference}: {difference}. '
                f'Set {setting(expected)} in both'
            )


def concatenation_problems(cfg: Config, splits: Sequence[str] = SPLITS) -> Iterator[str]:
    """Compare the classes of data sets that are joined, which upstream's ConcatDataset cannot map to each other.

    Args:
        cfg: A config of mmdet or mmseg.
        splits: The data loaders to look at.

    Yields:
        A message for each data set whose classes differ from those of the first one.
    """
    if any(part in cfg.get('model', {}) for part in TEXT_MODELS):
        return
    for split in splits:
        evaluator = cfg.get(f'{split}_evaluator') or {}
        if isinstance(evaluator, Mapping) and type_name(evaluator) == 'MultiDatasetsEvaluator':
            continue  # it scores each data set by itself
        loader = cfg.get(f'{split}_dataloader') or {}
        for key, parts in _concatenations(f'{split}_dataloader.dataset', loader.get('dataset')):
            lists = [_configured_classes(part, cfg.get('default_scope')) for part in parts]
            for i, classes in enumerate(lists):
                if classes is None or lists[0] is None:
                    continue
                if difference := first_difference(lists[0], classes):
                    union = tuple(dict.fromkeys(name for names in lists for name in names or ()))
                    yield (
                        f'{key}.{i} has other classes than {key}.0: {difference}. Set the same list in every part, for '
                        f'example {setting(union)}, and num_classes in the heads'
                    )


def let_parts_lack_classes(cfg: Config) -> None:
    """Let annotation files of a concatenation lack classes that others have; :func:`check_parts` checks them later."""
    for split in SPLITS:
        loader = cfg.get(f'{split}_dataloader') or {}
        evaluator = cfg.get(f'{split}_evaluator') or {}
        metrics = evaluator.get('metrics', ()) if isinstance(evaluator, Mapping) else ()  # one for each part
        for _, parts in _concatenations('', loader.get('dataset')):
            for part in parts:
                while isinstance(part.get('dataset'), Mapping):
                    part = part['dataset']
                if type_name(part) == 'CheckedCocoDataset':
                    part.setdefault('may_lack_classes', True)
            for metric in metrics:
                if type_name(metric) == 'FastCocoMetric':
                    metric.setdefault('may_lack_classes', True)


def check_parts(dataset: object) -> None:
    """Check that each class is in at least one part of a concatenation.

    Args:
        dataset: A data set or a wrapper.

    Raises:
        UserError: If all parts lack a class.
    """
    parts = getattr(dataset, 'datasets', None)
    if parts is None:
        if hasattr(dataset, 'dataset'):
            check_parts(dataset.dataset)
        return
    lists = [_lacking(part) for part in parts]
    for name in lists[0]:
        if all(name in lacking for lacking in lists):
            raise UserError(
                f'none of the {len(parts)} concatenated data sets has the class {name!r}: correct '
                'metainfo=dict(classes=(...)) in all of them'
            )


def _lacking(dataset: object) -> list[str]:
    """The classes that the annotation file of a data set, or of the one in its wrappers, does not have."""
    while 'lacking' not in vars(dataset) and hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    return getattr(dataset, 'lacking', [])


def _concatenations(key: str, dataset: object) -> Iterator[tuple[str, Sequence]]:
    """The lists of data sets inside the wrappers of a config, each with its key."""
    if not isinstance(dataset, Mapping):
        return
    if isinstance(dataset.get('datasets'), Sequence):
        yield f'{key}.datasets', dataset['datasets']
        for i, part in enumerate(dataset['datasets']):
            yield from _concatenations(f'{key}.datasets.{i}', part)
    yield from _concatenations(f'{key}.dataset', dataset.get('dataset'))


def _configured_classes(dataset: object, scope: str | None) -> tuple[str, ...] | None:
    """The classes of a data set's config: those of its ``metainfo``, or else those of its type."""
    while isinstance(dataset, Mapping) and (dataset.get('dataset') or dataset.get('datasets')):
        dataset = dataset.get('dataset') or dataset['datasets'][0]
    if not isinstance(dataset, Mapping):
        return None
    if classes := class_tuple(dataset.get('metainfo')):
        return classes
    type_ = dataset.get('type')
    if isinstance(type_, str):
        type_ = (scope and DATASETS.get(f'{scope}.{type_}')) or DATASETS.get(type_)
    if hasattr(type_, 'get_len_per_video'):  # mmdet's videos list classes that no tracker finds
        return None
    return class_tuple(getattr(type_, 'METAINFO', None))


def class_tuple(metainfo: object) -> tuple[str, ...] | None:
    """The classes in the ``metainfo`` of a data set or a checkpoint; ``None`` if it has no list of them."""
    if isinstance(metainfo, list) and metainfo:  # mmdet's ConcatDataset lists those of its parts if they differ
        metainfo = metainfo[0]
    if not isinstance(metainfo, Mapping):
        return None
    classes = metainfo.get('classes') or metainfo.get('CLASSES')  # the second name is that of earlier versions
    return tuple(classes) if isinstance(classes, list | tuple) else None


def first_difference(expected: Sequence[str], found: Sequence[str]) -> str | None:
    """Describe the first class that differs; ``None`` if the lists are the same."""
    for i, (first, second) in enumerate(zip_longest(expected, found)):
        if second is None:
            return f'there is no class {i}, which should be {first!r}'
        if first is None:
            return f'class {i} is {second!r}, and there should be only {i} classes'
        if first != second:
            return f'class {i} is {second!r} in place of {first!r}'
    return None


def setting(classes: tuple[str, ...]) -> str:
    """The setting to paste, shortened if the list is long."""
    if len(classes) > LISTED:
        return f'metainfo=dict(classes=({", ".join(map(repr, classes[:3]))}, ...)) with its {len(classes)} classes'
    return f'metainfo=dict(classes={classes})'
