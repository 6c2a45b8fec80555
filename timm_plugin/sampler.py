"""timm's sampler of repeated augmentation."""

from __future__ import annotations

from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS
from timm.data.distributed_sampler import RepeatAugSampler
from torch.utils.data import Dataset


@DATA_SAMPLERS.register_module()
class RepeatedAugSampler(RepeatAugSampler):
    """timm's RepeatAugSampler, which is DeiT's: each image comes several times in succession, on different processes.

    An epoch has as many samples as the data set, so it covers a part of the images only.

    Args:
        dataset: The data set.
        num_repeats: Number of times that an image comes.
    """

    def __init__(self, dataset: Dataset, num_repeats: int = 3) -> None:
        rank, processes = get_dist_info()
        super().__init__(dataset, processes, rank, num_repeats=num_repeats)
