"""Random numbers as a function of the seed, the process and the iteration, so that there is no state to lose."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count, islice

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_rank
from mmengine.registry import DATA_SAMPLERS, DATASETS, FUNCTIONS
from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import BatchSampler, Dataset, Sampler

from backbones.errors import UserError

INFINITE_SAMPLERS = ('InfiniteSampler', 'MultiSourceSampler', 'GroupMultiSourceSampler')  # mmengine's and mmdet's

# its name in configs before version 0.2
DATA_SAMPLERS.register_module(name='RestartableInfiniteSampler', module=InfiniteSampler)


def seed_all(*key: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators, on all devices, with a sequence of numbers."""
    torch.manual_seed(_seed_cpu(key))


def _seed_cpu(key: tuple[int, ...]) -> int:
    """Seed the generators of the CPU, and return the seed of PyTorch's."""
    first, second = np.random.SeedSequence(key).generate_state(2).tolist()
    random.seed(first)
    np.random.seed(first)
    torch.default_generator.manual_seed(first << 32 | second)
    return first << 32 | second


@contextlib.contextmanager
def seeded(*key: int) -> Iterator[None]:
    """Seed the generators of the CPU for a block of code, and restore their states afterwards.

    The generators of GPUs are left alone: samples are made on the CPU.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    _seed_cpu(key)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


class KeyedSamples(list):
    """The samples of a batch, with the key that seeds the function that forms the batch."""

    key: tuple[int, ...]


@FUNCTIONS.register_module()
def seeded_collate(samples: KeyedSamples, collate: Mapping | Callable[[Sequence], object]) -> object:
    """Form a batch by a function that may draw random numbers, such as that of mixup.

    Args:
        samples: Samples of a :class:`SeededDataset`.
        collate: What a config has as ``collate_fn``: a function, or a dict with its registered name and its arguments.
    """
    if isinstance(collate, Mapping):
        settings = dict(collate)
        name = settings.pop('type')
        collate = partial(FUNCTIONS.get(name) if isinstance(name, str) else name, **settings)
    with seeded(*samples.key):
        return collate(list(samples))


@DATASETS.register_module()
class SeededDataset(Dataset):
    """A whole data set, with its wrappers, whose samples depend on nothing but their index and their key.

    All other attributes are those of the data set inside, for hooks and samplers that read or set them.

    Args:
        dataset: The data set or its config.
    """

    def __init__(self, dataset: dict | Dataset) -> None:
        vars(self)['dataset'] = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset

    def __getitem__(self, index_and_key: tuple[object, tuple[int, ...]]) -> dict:
        """Load a sample; its key seeds the random numbers of all that the data set does."""
        index, key = index_and_key
        with seeded(*key):
            return self.dataset[index]

    def __getitems__(self, batch: Sequence[tuple[object, tuple[int, ...]]]) -> KeyedSamples:
        """Load the samples of a batch, as the data loader asks for them."""
        samples = KeyedSamples(self[item] for item in batch)
        _, (*key, _) = batch[0]
        samples.key = (*key, len(batch))  # in place of the number of a sample in the batch
        return samples

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> object:
        if name == 'dataset' or name.startswith('__'):  # not there yet, while a worker unpickles it
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self.dataset, name, value)


@DATA_SAMPLERS.register_module()
class NumberedBatchSampler(BatchSampler):
    """Batches of indices with keys for :class:`SeededDataset`, beginning at the iteration where a run is resumed.

    A key consists of the seed, the process, the iteration and the place in the batch.

    Args:
        sampler: Sampler of the indices.
        batch_size: Number of indices in a batch.
        inner: Config of the batch sampler that forms the batches.
        endless: Whether the batches of one epoch follow those of another without an end.
        multiple: The number of batches of an epoch is a multiple of this; those beyond are left out.

    Raises:
        UserError: If the data set makes no batch.
    """

    def __init__(
        self, sampler: Sampler, batch_size: int | list[int], inner: dict, endless: bool, multiple: int = 1
    ) -> None:
        self.sampler, self.endless, self.multiple = sampler, endless, multiple
        self.build_inner = partial(
            DATA_SAMPLERS.build, inner, default_args=dict(sampler=sampler, batch_size=batch_size)
        )
        self.length = len(self.build_inner()) // multiple * multiple
        if not self.length and not isinstance(sampler, InfiniteSampler):
            raise UserError(
                f'{len(sampler)} training samples in each process make no batch of {batch_size}: lower '
                'train_dataloader.batch_size, or leave out drop_last'
                if multiple == 1
                else f'{len(sampler)} training samples in each process are less than a step of {multiple} batches of '
                f'{batch_size}: lower train_dataloader.batch_size or optim_wrapper.accumulative_counts'
            )
        self.range: tuple[int, int] | None = None

    def begin(self, seed: int, first: int, iteration: int) -> None:
        """Set where the batches begin.

        Args:
            seed: Seed of the run.
            first: Iteration of the first batch in the samplers' order.
            iteration: Iteration of the first batch that is needed.
        """
        self.sampler.seed, self.range = seed, (first, iteration)

    def __iter__(self) -> Iterator[list[tuple[object, tuple[int, ...]]]]:
        if self.range is None:  # mmengine's loop by iterations asks for data before it knows where to begin
            return
        first, begin = self.range
        batches = self._batches()
        for number in count(first):
            key = self.sampler.seed, get_rank(), number
            with seeded(*key):  # mmdet's GroupMultiSourceSampler draws from NumPy's random numbers
                batch = next(batches, None)
            if batch is None:
                return
            if number >= begin:
                yield [(index, (*key, place)) for place, index in enumerate(batch)]

    def _batches(self) -> Iterator[list]:
        if not self.endless:
            yield from islice(self.build_inner(), self.length if self.multiple > 1 else None)
            return
        for epoch in count():  # an infinite sampler remains in its first
            if hasattr(self.sampler, 'set_epoch'):
                self.sampler.set_epoch(epoch)
            yield from self.build_inner()  # a used one may hold indices that were left over

    def __len__(self) -> int:
        return self.length


def caching_transforms(dataset: Dataset) -> Iterator[str]:
    """Names of the transforms that keep images from one call to the next, such as mmdet's CachedMosaic."""
    pipeline = getattr(dataset, 'pipeline', [])
    for transform in getattr(pipeline, 'transforms', pipeline):  # mmengine's Compose, or a list
        if hasattr(transform, 'results_cache'):
            yield type(transform).__name__
    parts = [dataset.dataset] if hasattr(dataset, 'dataset') else getattr(dataset, 'datasets', [])
    for part in parts:
        yield from caching_transforms(part)


def refuse_endless_epochs(loop: EpochBasedTrainLoop) -> None:
    """Refuse a sampler that never ends an epoch.

    Args:
        loop: A training loop by epochs.

    Raises:
        UserError: If the sampler of its data loader is endless; the message has the settings for epochs.
    """
    sampler = type(getattr(loop.dataloader.batch_sampler, 'sampler', None)).__name__
    if sampler not in INFINITE_SAMPLERS:
        return
    epochs = loop.max_epochs
    raise UserError(
        f'train_dataloader.sampler.type={sampler} never ends an epoch: train by iterations, with '
        "train_cfg.type='ResumableIterLoop', or by epochs, with all of these settings: "
        f"train_cfg = dict(_delete_=True, type='ResumableEpochLoop', max_epochs={epochs}, val_interval=1); "
        "train_dataloader = dict(sampler=dict(type='DefaultSampler')); "
        'default_hooks = dict(checkpoint=dict(by_epoch=True, interval=1), logger=dict(log_metric_by_epoch=True)); '
        'log_processor = dict(by_epoch=True); '
        f"param_scheduler = [dict(type='PolyLR', power=1.0, begin=0, end={epochs}, by_epoch=True, "
        'convert_to_iter_based=True)]'
    )
