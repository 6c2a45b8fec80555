"""Random numbers as a function of the seed, the process and the iteration, so that there is no state to lose."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_rank
from mmengine.registry import DATA_SAMPLERS
from torch.utils.data import BatchSampler, Sampler

from ..compat.private_names import indices_of_rank


def seed_all(*key: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators, on all devices, with a sequence of numbers."""
    first, second = np.random.SeedSequence(key).generate_state(2).tolist()
    random.seed(first)
    np.random.seed(first)
    torch.manual_seed(first << 32 | second)


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the generators of the CPU for a block of code, and restore their states afterwards."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_all(*key)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class SeededIndex(int):
    """An index into a data set, with the key by which the random numbers of its augmentations are seeded.

    Attributes:
        key: Seed, process, iteration, and place in the batch.
    """

    key: tuple[int, ...]

    def __new__(cls, index: int, key: tuple[int, ...]) -> SeededIndex:
        self = super().__new__(cls, index)
        self.key = key
        return self

    def __reduce__(self) -> tuple:
        return SeededIndex, (int(self), self.key)


@DATA_SAMPLERS.register_module()
class RestartableInfiniteSampler(InfiniteSampler):
    """mmengine's InfiniteSampler, but each ``iter()`` of it begins with the first index again."""

    def __iter__(self) -> Iterator[int]:
        return indices_of_rank(self)


@DATA_SAMPLERS.register_module()
class NumberedBatchSampler(BatchSampler):
    """Batches of :class:`SeededIndex`, beginning with the iteration at which a run is resumed.

    Args:
        sampler: Sampler of the indices.
        batch_size: Number of indices in a batch.
        inner: Config of the batch sampler that forms the batches.
    """

    def __init__(self, sampler: Sampler, batch_size: int, inner: dict) -> None:
        self.sampler = sampler
        self.inner = DATA_SAMPLERS.build(inner, default_args=dict(sampler=sampler, batch_size=batch_size))
        self.range: tuple[int, int] | None = None

    def begin(self, seed: int, first: int, iteration: int) -> None:
        """Set where the batches begin.

        Args:
            seed: Seed of the run.
            first: Iteration of the first batch in the samplers' order.
            iteration: Iteration of the first batch that is needed.
        """
        self.sampler.seed, self.range = seed, (first, iteration)

    def __iter__(self) -> Iterator[list[SeededIndex]]:
        if self.range is None:  # mmengine's loop by iterations asks for data before it knows where to begin
            return
        first, begin = self.range
        for number, batch in enumerate(self.inner, first):
            if number >= begin:
                key = self.sampler.seed, get_rank(), number
                yield [SeededIndex(index, (*key, place)) for place, index in enumerate(batch)]

    def __len__(self) -> int:
        return len(self.inner)
