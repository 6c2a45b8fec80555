"""A trial of the data pipelines on one sample, before the weights are downloaded and the workers start."""

from __future__ import annotations

from mmengine.dataset import BaseDataset
from torch.utils.data import Dataset

from backbones.errors import UserError

from ..data.wrapped_sets import leaves
from ..engine.sampling import SeededDataset, caching_transforms
from .mixing import check_mixing
from .samples import load_sample


def first_sample(dataset: Dataset, source: str) -> dict | None:
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
    parts = list(leaves(dataset))
    if not all(isinstance(part, BaseDataset) and not hasattr(part, 'get_len_per_video') for part in parts):
        return None  # a data set of another kind, such as one of videos, whose samples have indices of another kind
    check_mixing(dataset, source)
    if any(caching_transforms(dataset)):
        return None
    sample = load_sample(dataset, 0, source)
    if sample is None:
        return None
    if not isinstance(sample, dict) or 'inputs' not in sample or 'data_samples' not in sample:
        pack = 'PackDetInputs' if type(parts[0]).__module__.startswith('mmdet') else 'PackSegInputs'
        raise UserError(
            f'{source}: its pipeline does not pack the sample for the model: add dict(type={pack!r}) at the end'
        )
    return sample
