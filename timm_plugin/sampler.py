"""timm's sampler of repeated augmentation."""

from __future__ import annotations

from mmengine.dist import get_dist_info
from mmengine.registry import DATA_SAMPLERS
from timm.data.distributed_sampler import RepeatAugSampler
from torch.utils.data import Dataset


@DATA_SAMPLERS.register_module()
class RepeatedAugSampler(RepeatAugSampler):
    """timm's RepeatAugSampler, which is DeiT's: each image comes several times in succession, on different processes.

    An epoch has about as many samples as the data set, so it covers a part of the images only: with 256 images or more,
    their number is rounded down to a multiple of 256. As in DeiT's program, the order depends on the epoch alone.

    Args:
        dataset: The data set.
        num_repeats: Number of times that an image comes.
        seed: Not used; a Runner passes its seed to every sampler.
    """

    def __init__(self, dataset: Dataset, num_repeats: int = 3, seed: int | None = None) -> None:
        rank, processes = get_dist_info()
        super().__init__(dataset, processes, rank, num_repeats=num_repeats)
