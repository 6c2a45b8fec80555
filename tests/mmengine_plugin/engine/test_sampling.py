"""Every random number of a sample depends on nothing but seed, process and iteration, whatever the data set."""

import itertools
import pickle
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.registry import DATA_SAMPLERS, DATASETS, TRANSFORMS
from torch.utils.data import BatchSampler, DataLoader

from backbones import UserError
from mmengine_plugin.engine.sampling import (
    NumberedBatchSampler,
    SeededDataset,
    caching_transforms,
    seed_all,
    seeded,
    seeded_collate,
)
from tests.mmengine_plugin.engine.points import Points, run


@TRANSFORMS.register_module()
class Noise:
    """Adds a random number to a sample."""

    def __call__(self, info: dict) -> dict:
        return dict(index=info['index'], noise=np.random.rand(), mixed=info.get('mix_results'))

    def get_indexes(self, dataset) -> int:
        """A second sample to mix in, as for mmdet's MultiImageMixDataset."""
        return np.random.randint(len(dataset))


@DATASETS.register_module()
class Numbers(BaseDataset):
    METAINFO = dict(classes=('a', 'b'))

    def __init__(self, size: int = 6, **kwargs) -> None:
        self.size = size
        super().__init__(pipeline=[dict(type='Noise')], **kwargs)

    def load_data_list(self) -> list[dict]:
        return [dict(index=i, width=10, height=20 if i % 3 else 5) for i in range(self.size)]

    def get_cat_ids(self, idx: int) -> list[int]:
        return [idx % 2]


NUMBERS = dict(type='Numbers')
WRAPPED = {
    'plain': NUMBERS,
    'concatenated': dict(type='ConcatDataset', datasets=[NUMBERS, NUMBERS]),
    'repeated': dict(type='RepeatDataset', dataset=NUMBERS, times=2),
    'balanced': dict(type='ClassBalancedDataset', dataset=NUMBERS, oversample_thr=0.9),
    'mixed': dict(type='mmdet.MultiImageMixDataset', dataset=NUMBERS, pipeline=[dict(type='Noise')]),
    'mixed of concatenated of repeated': dict(
        type='mmdet.MultiImageMixDataset',
        pipeline=[dict(type='Noise')],
        dataset=dict(type='ConcatDataset', datasets=[NUMBERS, dict(type='RepeatDataset', dataset=NUMBERS, times=2)]),
    ),
}


@pytest.mark.parametrize('kind', WRAPPED)
def test_a_sample_depends_on_its_index_and_key_alone(kind):
    dataset = SeededDataset(WRAPPED[kind])
    dataset.full_init()
    first, last = (dataset[i, (3, 0, 7, 0)] for i in (0, len(dataset) - 1))
    np.random.seed(99)
    dataset[1, (5, 0, 0, 0)]
    assert dataset[0, (3, 0, 7, 0)] == first and dataset[len(dataset) - 1, (3, 0, 7, 0)] == last
    assert dataset[0, (3, 0, 8, 0)] != first and dataset[len(dataset) - 1, (3, 0, 8, 0)] != last


def test_a_data_set_without_the_wrapper_repeats_nothing():
    dataset = DATASETS.build(WRAPPED['concatenated'])
    assert dataset[0] != dataset[0]


def test_the_wrapper_has_the_attributes_of_the_data_set_for_reading_and_writing():
    dataset = SeededDataset(WRAPPED['concatenated'])
    assert dataset.metainfo['classes'] == ('a', 'b') and dataset.cumulative_sizes == [6, 12]
    dataset.pipeline = 'another one'  # what mmdet's PipelineSwitchHook does
    assert dataset.dataset.pipeline == 'another one'
    with pytest.raises(AttributeError, match='no_such_name'):
        dataset.no_such_name  # noqa: B018


def test_the_wrapper_can_be_sent_to_a_worker_that_is_spawned():
    dataset = pickle.loads(pickle.dumps(SeededDataset(NUMBERS)))
    assert dataset[2, (3, 0, 7, 0)] == SeededDataset(NUMBERS)[2, (3, 0, 7, 0)]


def batches(sampler: dict, inner: dict, begin: int, count: int, workers: int = 0, collate_fn: Callable = list) -> list:
    """Batches of 4 of 12 samples, from iteration ``begin`` on."""
    class_aware = 'ClassAware' in sampler['type']  # which needs a single data set
    dataset = SeededDataset(dict(NUMBERS, size=12) if class_aware else WRAPPED['concatenated'])
    dataset.full_init()
    sampler = DATA_SAMPLERS.build(dict(sampler, dataset=dataset))
    numbered = NumberedBatchSampler(sampler, 4, inner, endless=True)
    numbered.begin(3, 0, begin)
    loader = DataLoader(dataset, batch_sampler=numbered, num_workers=workers, collate_fn=collate_fn)
    return list(itertools.islice(loader, count))


SAMPLERS = {
    'infinite': dict(type='InfiniteSampler', seed=8),
    'default': dict(type='DefaultSampler', shuffle=True, seed=8),
    'class-aware': dict(type='mmdet.ClassAwareSampler', seed=8),
    'two sources': dict(type='mmdet.MultiSourceSampler', batch_size=4, source_ratio=[1, 3], seed=8),
}
BATCHES = {
    'plain': dict(type=BatchSampler, drop_last=False),
    'aspect ratio': dict(type='mmdet.AspectRatioBatchSampler', drop_last=True),
}


@pytest.mark.parametrize(('kind', 'shape'), itertools.product(SAMPLERS, BATCHES))
def test_batches_from_any_iteration_are_those_of_the_whole_run(kind, shape):
    """Beyond the end of the data, too: it has 3 batches."""
    whole = batches(SAMPLERS[kind], BATCHES[shape], 0, 9)
    for begin in (1, 3, 7):
        assert batches(SAMPLERS[kind], BATCHES[shape], begin, 9 - begin) == whole[begin:]
    indices = [[sample['index'] for sample in batch] for batch in whole]
    assert len(set(map(tuple, indices))) > 6


def test_workers_change_nothing():
    sampler, inner = SAMPLERS['default'], BATCHES['plain']
    assert batches(sampler, inner, 2, 5, workers=2) == batches(sampler, inner, 2, 5)


def shuffled(samples: list) -> list:
    """Form a batch whose order, and whose last entry, are random."""
    return [samples[i] for i in torch.randperm(len(samples))] + [np.random.rand()]


def test_a_function_that_forms_batches_may_draw_random_numbers():
    sampler, inner = SAMPLERS['default'], BATCHES['plain']
    collate_fn = partial(seeded_collate, collate=shuffled)
    whole = batches(sampler, inner, 0, 6, collate_fn=collate_fn)
    assert batches(sampler, inner, 2, 4, workers=2, collate_fn=collate_fn) == whole[2:]
    assert len({batch[-1] for batch in whole}) == 6
    noises = [sample['noise'] for batch in whole for sample in batch[:-1]]
    assert len({*noises, *(batch[-1] for batch in whole)}) == 6 * 4 + 6  # no numbers are those of a sample
    assert batches(sampler, inner, 2, 4, collate_fn=shuffled) != whole[2:]  # without seeds


def test_batches_beyond_a_multiple_are_left_out():
    dataset = SeededDataset(dict(NUMBERS, size=15))
    sampler = DATA_SAMPLERS.build(dict(SAMPLERS['default'], dataset=dataset))
    for multiple, length in ((1, 8), (3, 6), (8, 8)):
        numbered = NumberedBatchSampler(sampler, 2, BATCHES['plain'], endless=False, multiple=multiple)
        numbered.begin(0, 0, 0)
        assert len(list(numbered)) == len(numbered) == length
    with pytest.raises(UserError, match='are less than a step of 9 batches of 2: lower'):
        NumberedBatchSampler(sampler, 2, BATCHES['plain'], endless=False, multiple=9)


def test_caching_transforms_are_named():
    mosaic = dict(type='mmdet.CachedMosaic', img_scale=(8, 8), pad_val=114.0)
    dataset = dict(type='mmdet.MultiImageMixDataset', dataset=NUMBERS, pipeline=[mosaic])
    assert list(caching_transforms(DATASETS.build(dataset))) == ['CachedMosaic']
    assert list(caching_transforms(DATASETS.build(WRAPPED['mixed']))) == []


@DATASETS.register_module()
class RememberingPoints(Points):
    """Points whose last transform keeps them."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)
        self.pipeline.transforms.append(Memory())


class Memory:
    """A transform that keeps what it has seen."""

    def __init__(self) -> None:
        self.results_cache = []

    def __call__(self, info: dict) -> dict:
        self.results_cache.append(info)
        return info


def test_a_run_with_a_caching_transform_says_that_it_cannot_be_resumed_exactly(tmp_path):
    for name, expected in (('RememberingPoints', True), ('Points', False)):
        code, said = run(tmp_path / name, 'epochs', train_dataloader__dataset=dict(type=name))
        assert code == 0 and ('Memory has a memory of earlier iterations' in said) == expected, said


def test_an_endless_sampler_under_a_loop_by_epochs_is_refused(tmp_path):
    code, said = run(tmp_path / 'run', 'epochs', train_dataloader__sampler=dict(type='InfiniteSampler'))
    assert code == 1 and 'train_dataloader.sampler.type=InfiniteSampler never ends an epoch' in said, said


@pytest.mark.parametrize('loop', ['epochs', 'iterations'])
def test_data_that_makes_no_batch_is_refused(loop, tmp_path):
    changes = dict(train_dataloader__batch_size=7, train_dataloader__drop_last=True)
    code, said = run(tmp_path / 'run', loop, **changes)
    refused = code == 1 and '6 training samples in each process make no batch of 7' in said
    # InfiniteSampler fills a batch with the same samples again
    assert refused if loop == 'epochs' else code == 0, said


def test_loading_a_sample_leaves_the_generators_of_gpus_alone(monkeypatch):
    """Otherwise a trial of a sample would give the heads the same initial weights whatever the seed of the run."""
    seeds = []
    monkeypatch.setattr(torch.cuda, 'manual_seed_all', seeds.append)
    before = torch.get_rng_state()
    with seeded(3, 4):
        inside = torch.rand(2)
    assert seeds == [] and torch.equal(torch.get_rng_state(), before)
    seed_all(3, 4)
    assert len(seeds) == 1 and torch.equal(torch.rand(2), inside)
