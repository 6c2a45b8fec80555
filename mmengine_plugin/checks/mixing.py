"""Places of transforms that make one image of several, such as mosaics."""

from __future__ import annotations

from torch.utils.data import Dataset

from backbones.errors import UserError

from ..data.wrapped_sets import leaves
from .samples import load_sample, transforms_of

# mmdet's transforms that mix boxes and leave the masks as they are, and those that mix both
WITHOUT_MASKS = {'Mosaic': 'CachedMosaic', 'MixUp': 'CachedMixUp'}
TRIED_SIZES = 4  # images of which CopyPaste must find all in one size


def check_mixing(dataset: Dataset, source: str) -> None:
    """Check the places of transforms that make one image of several.

    Args:
        dataset: Data set of a data loader.
        source: Its key in the config, for the message.

    Raises:
        UserError: If such a transform needs another place, another transform or images of one size.
    """
    if not hasattr(dataset, 'dataset') and not hasattr(dataset, 'datasets'):
        for transform in transforms_of(dataset):
            if _needs_wrapper(transform):
                raise UserError(
                    f'{source}: {type(transform).__name__} makes one image of several, which only '
                    'MultiImageMixDataset gives to it: move it to the pipeline of that wrapper, as docs/inheriting.md '
                    'shows'
                )
        return
    mixing = [type(transform).__name__ for transform in transforms_of(dataset) if _needs_wrapper(transform)]
    for name in mixing:
        if name in WITHOUT_MASKS and _loads_masks(dataset):
            raise UserError(
                f'{source}: {name} of mmdet mixes boxes, but not masks: use {WITHOUT_MASKS[name]} in the pipeline of '
                'the data set itself, without MultiImageMixDataset, or CopyPaste as docs/inheriting.md shows'
            )
    if 'CopyPaste' in mixing:
        _check_one_size(dataset.dataset, source)
    parts = dict(dataset=dataset.dataset) if hasattr(dataset, 'dataset') else dict(enumerate(dataset.datasets))
    for key, part in parts.items():
        check_mixing(part, f'{source}.{key}' if isinstance(key, str) else f'{source}.datasets.{key}')


def _needs_wrapper(transform: object) -> bool:
    """Whether a transform of mmdet or mmseg takes the other images from MultiImageMixDataset."""
    if hasattr(transform, 'results_cache'):  # it keeps images of its own
        return False
    return hasattr(transform, 'get_indexes') or hasattr(transform, 'get_indices')


def _loads_masks(dataset: Dataset) -> bool:
    return any(getattr(transform, 'with_mask', False) for leaf in leaves(dataset) for transform in transforms_of(leaf))


def _check_one_size(dataset: Dataset, source: str) -> None:
    """Check that the data set inside MultiImageMixDataset gives images of one size, which CopyPaste needs."""
    samples = [load_sample(dataset, i, f'{source}.dataset') for i in range(min(TRIED_SIZES, len(dataset)))]
    sizes = {sample['img'].shape[:2] for sample in samples if sample is not None}
    if len(sizes) > 1:
        listed = ', '.join(f'{height}x{width}' for height, width in sorted(sizes))
        raise UserError(
            f'{source}: CopyPaste needs images of one size, and the pipeline of {source}.dataset gives {listed}: end '
            'it with RandomCrop and Pad to one size, as docs/inheriting.md shows'
        )
