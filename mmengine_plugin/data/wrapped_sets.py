"""The data sets inside wrappers, such as ConcatDataset and RepeatDataset."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mmengine.config import Config
from torch.utils.data import Dataset


def leaves(dataset: Dataset) -> Iterator[Dataset]:
    """The data sets inside the wrappers of a data set, or the data set itself."""
    if hasattr(dataset, 'dataset'):
        yield from leaves(dataset.dataset)
    elif hasattr(dataset, 'datasets'):
        for part in dataset.datasets:
            yield from leaves(part)
    else:
        yield dataset


def configured_leaves(config: Mapping) -> Iterator[Mapping]:
    """The configs of the data sets inside the wrappers of a data set's config, or the config itself."""
    children = list(config.get('datasets', ()))
    if config.get('dataset'):
        children.append(config['dataset'])
    if not children:
        yield config
    for child in children:
        yield from configured_leaves(child)


def configured_sets(cfg: Config) -> list[tuple[str, Mapping]]:
    """The data sets of all data loaders of a config, each once, with the key of its data loader."""
    found: list[tuple[str, Mapping]] = []
    for key in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        for config in configured_leaves(cfg[key].dataset) if cfg.get(key) else []:
            if config not in [other for _, other in found]:  # the test set is often the validation set
                found.append((key, config))
    return found
