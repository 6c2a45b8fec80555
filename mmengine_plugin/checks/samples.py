"""Single samples of a data set, loaded as the data loader will do, with errors that name the transform."""

from __future__ import annotations

import copy
import os
import traceback

from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset
from torch.utils.data import Dataset

from backbones.errors import UserError

from ..engine.sampling import seeded


def load_sample(dataset: Dataset, index: int, source: str) -> dict | None:
    """Load a sample with copies of its transforms. Neither the random state nor the data set changes.

    Args:
        dataset: A data set whose pipeline keeps no images between its calls.
        index: Number of the sample.
        source: Key of the data set in the config, for the message.

    Returns:
        What the pipeline returns; ``None`` if its transforms cannot be copied.

    Raises:
        UserError: If a transform fails, or if no image is left after it. The message names the transform.
    """
    try:
        trial = _copied(dataset)
    except Exception:  # any: a transform may hold an open file, a lock or a model
        return None
    try:
        with seeded(0):
            return trial[index]
    except UserError:
        raise
    except Exception as error:
        raise UserError(f'{source}: {_emptying(trial, index) or _failure(error)}') from error


def transforms_of(dataset: Dataset) -> list[object]:
    """The transforms of a data set or of a wrapper, without those of the data sets inside."""
    pipeline = getattr(dataset, 'pipeline', [])
    return list(getattr(pipeline, 'transforms', pipeline))


def _copied(dataset: Dataset) -> Dataset:
    """A data set with copies of its wrappers and transforms, and with the same annotations.

    Transforms may count their calls, or open a file at the first one. The data loader's workers, which are forked
    later, must not share that file.
    """
    copied = copy.copy(dataset)
    own = vars(copied)
    if 'pipeline' in own:
        own['pipeline'] = copy.deepcopy(own['pipeline'], {id(dataset): copied})
    if 'dataset' in own:
        own['dataset'] = _copied(own['dataset'])
    if 'datasets' in own:
        own['datasets'] = [_copied(part) for part in own['datasets']]
    return copied


def _emptying(dataset: Dataset, index: int) -> str | None:
    """Say which transform leaves nothing of an image, if one does; the pipeline then tries others without an end."""
    if not isinstance(dataset, BaseDataset) or dataset.test_mode:
        return None
    with seeded(0):
        sample = dataset.get_data_info(index)
        for transform in transforms_of(dataset):
            try:
                sample = transform(sample)
            except Exception:  # it is the failure
                return None
            if sample is None:
                settings = ' '.join(f'{transform}'.split())
                return (
                    f'after {dataset.max_refetch} images, the pipeline has found none that {type(transform).__name__} '
                    f'leaves an object in, as {settings}: is its limit too high for these objects?'
                )
    return None


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
