"""Random numbers that are a function of the seed, the process and the iteration: nothing that could be lost."""

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


def seed_random(*key: int) -> None:
    """Set the state of Python's, NumPy's and PyTorch's generators, on all devices, to a function of some numbers."""
    first, second = np.random.SeedSequence(key).generate_state(2).tolist()
    random.seed(first)
    np.random.seed(first)
    torch.manual_seed(first << 32 | second)


@contextlib.contextmanager
def random_numbers(*key: int) -> Iterator[None]:
    """Within, random numbers are a function of ``key``; afterwards they go on as if nothing had been drawn."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    seed_random(*key)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class Draw(int):
    """An index into a data set that knows which draw of the run it is.

    Attributes:
        key: Seed, process, iteration and place in the batch.
    """

    key: tuple[int, ...]

    def __new__(cls, index: int, key: tuple[int, ...]) -> Draw:
        self = super().__new__(cls, index)
        self.key = key
        return self

    def __reduce__(self) -> tuple:
        return Draw, (int(self), self.key)


@DATA_SAMPLERS.register_module()
class RestartableInfiniteSampler(InfiniteSampler):
    """mmengine's InfiniteSampler, which can be iterated once, from the start each time."""

    def __iter__(self) -> Iterator[int]:
        return self._indices_of_rank()


@DATA_SAMPLERS.register_module()
class NumberedBatchSampler(BatchSampler):
    """Batches of :class:`Draw` from the iteration on that a resumed run begins with; none before :meth:`begin`.

    Args:
        sampler: Of the indices.
        batch_size: How many make a batch.
        inner: The batch sampler that forms the batches, as a config.
    """

    def __init__(self, sampler: Sampler, batch_size: int, inner: dict) -> None:
        self.sampler = sampler
        self.inner = DATA_SAMPLERS.build(inner, default_args=dict(sampler=sampler, batch_size=batch_size))
        self.range: tuple[int, int] | None = None

    def begin(self, seed: int, first: int, iteration: int) -> None:
        """Set the run's seed, the iteration of the first batch of the samplers' order, and the one to begin with."""
        self.sampler.seed, self.range = seed, (first, iteration)

    def __iter__(self) -> Iterator[list[Draw]]:
        if self.range is None:  # mmengine's loop by iterations asks for data before it knows where to begin
            return
        first, begin = self.range
        for number, batch in enumerate(self.inner, first):
            if number >= begin:
                key = self.sampler.seed, get_rank(), number
                yield [Draw(index, (*key, place)) for place, index in enumerate(batch)]

    def __len__(self) -> int:
        return len(self.inner)
