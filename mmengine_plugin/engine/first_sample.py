"""A trial of the data pipelines on one sample, before the weights are downloaded and the workers start."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterable, Iterator

from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from torch.utils.data import Dataset

from backbones.errors import UserError

from .sampling import SeededDataset, caching_transforms, seeded

# mmdet's transforms that mix boxes and leave the masks as they are, and those that mix both
WITHOUT_MASKS = {'Mosaic': 'CachedMosaic', 'MixUp': 'CachedMixUp'}
TRIED_SIZES = 4  # images of which CopyPaste must find all in one size


def check_first_sample(dataset: Dataset, source: str) -> dict | None:
    """Load the first sample, with its transforms, as the data loader will do.

    Neither the random state nor the data set changes. A pipeline that keeps images between its calls is not tried.

    Args:
        dataset: Data set of a data loader.
        source: Its key in the config, such as ``'train_dataloader.dataset'``, for the message.

    Returns:
        The sample; ``None`` if the pipeline is not tried.

    Raises:
        UserError: If a transform fails or needs another place in the pipeline, or if the pipeline does not pack its
            sample. The message names the transform.
    """
    if isinstance(dataset, SeededDataset):
        dataset = dataset.dataset
    leaves = list(_leaves(dataset))
    if not all(isinstance(leaf, BaseDataset) and not hasattr(leaf, 'get_len_per_video') for leaf in leaves):
        return None  # a data set of another kind, such as one of videos, whose samples have indices of another kind
    _check_mixing(dataset, source)
    if any(caching_transforms(dataset)):
        return None
    try:
        with seeded(0):
            sample = dataset[0]
    except UserError:
        raise
    except Exception as error:
        raise UserError(f'{source}: {_failure(error)}') from error
    if not isinstance(sample, dict) or 'inputs' not in sample or 'data_samples' not in sample:
        pack = 'PackDetInputs' if type(leaves[0]).__module__.startswith('mmdet') else 'PackSegInputs'
        raise UserError(
            f'{source}: its pipeline does not pack the sample for the model: add dict(type={pack!r}) at the end'
        )
    return sample


def check_label_map(sample: dict | None, metrics: Iterable[BaseMetric]) -> None:
    """Check that a sample of a validation has the label map that mIoU is counted with.

    Args:
        sample: What :func:`check_first_sample` returned.
        metrics: Metrics of the evaluator.

    Raises:
        UserError: If it has none.
    """
    counts = any(type(metric).__name__ == 'IoUMetric' and not metric.format_only for metric in metrics)
    if counts and sample is not None and 'gt_sem_seg' not in sample['data_samples']:
        raise UserError(
            'val_dataloader.dataset: IoUMetric needs label maps, and the pipeline loads none: add '
            "dict(type='LoadAnnotations') after Resize, and seg_map_path to data_prefix"
        )


def _leaves(dataset: Dataset) -> Iterator[Dataset]:
    """The data sets inside wrappers."""
    parts = [dataset.dataset] if hasattr(dataset, 'dataset') else getattr(dataset, 'datasets', None)
    if parts is None:
        yield dataset
        return
    for part in parts:
        yield from _leaves(part)


def _transforms(dataset: Dataset) -> list[object]:
    """The transforms of a data set or of a wrapper, without those of the data sets inside."""
    pipeline = getattr(dataset, 'pipeline', [])
    return list(getattr(pipeline, 'transforms', pipeline))


def _check_mixing(dataset: Dataset, source: str) -> None:
    """Check the places of transforms that make one image of several."""
    if not hasattr(dataset, 'dataset') and not hasattr(dataset, 'datasets'):
        for transform in _transforms(dataset):
            if _needs_wrapper(transform):
                raise UserError(
                    f'{source}: {type(transform).__name__} makes one image of several, which only '
                    'MultiImageMixDataset gives to it: move it to the pipeline of that wrapper, as docs/inheriting.md '
                    'shows'
                )
        return
    mixing = [type(transform).__name__ for transform in _transforms(dataset) if _needs_wrapper(transform)]
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
        _check_mixing(part, f'{source}.{key}' if isinstance(key, str) else f'{source}.datasets.{key}')


def _needs_wrapper(transform: object) -> bool:
    """Whether a transform of mmdet or mmseg takes the other images from MultiImageMixDataset."""
    if hasattr(transform, 'results_cache'):  # it keeps images of its own
        return False
    return hasattr(transform, 'get_indexes') or hasattr(transform, 'get_indices')


def _loads_masks(dataset: Dataset) -> bool:
    leaves = [transform for leaf in _leaves(dataset) for transform in _transforms(leaf)]
    return any(getattr(transform, 'with_mask', False) for transform in leaves)


def _check_one_size(dataset: Dataset, source: str) -> None:
    """Check that the data set inside MultiImageMixDataset gives images of one size, which CopyPaste needs."""
    sizes = set()
    try:
        with seeded(0):
            for i in range(min(TRIED_SIZES, len(dataset))):
                sizes.add(dataset[i]['img'].shape[:2])
    except UserError:
        raise
    except Exception as error:
        raise UserError(f'{source}.dataset: {_failure(error)}') from error
    if len(sizes) > 1:
        listed = ', '.join(f'{height}x{width}' for height, width in sorted(sizes))
        raise UserError(
            f'{source}: CopyPaste needs images of one size, and the pipeline of {source}.dataset gives {listed}: end '
            'it with RandomCrop and Pad to one size, as docs/inheriting.md shows'
        )


def _failure(error: Exception) -> str:
    """What failed: the transform, the error with its notes, and the place in the code."""
    steps = list(traceback.walk_tb(error.__traceback__))
    owners = [frame.f_locals.get('self') for frame, _ in steps]
    transforms = [type(owner).__name__ for owner in owners if isinstance(owner, BaseTransform)]
    frame, line = steps[-1]
    place = f'{os.path.basename(frame.f_code.co_filename)}:{line}'
    notes = ''.join(f' {note}' for note in getattr(error, '__notes__', ()))
    reason = ' '.join(f'{type(error).__name__}: {error}'.split())
    what = f'the transform {transforms[-1]} fails' if transforms else 'the first sample cannot be loaded'
    return f'{what}{notes} [{reason}, in {place}]: are its arguments and its place in the pipeline right?'
