"""Pipelines that would fail during a training are refused before it, with the transform that is wrong."""

import copy
import dataclasses
import re
import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, init_default_scope
from mmseg.evaluation import IoUMetric

from backbones import UserError
from mmengine_plugin.checks.first_sample import first_sample
from mmengine_plugin.checks.metric_settings import check_label_map
from mmengine_plugin.checks.run_part import RunPart
from mmengine_plugin.data.wrapped_sets import leaves
from tests.conftest import ROOT
from tests.mmengine_plugin.checks.test_check_run import assert_refused_early
from tests.mmengine_plugin.engine.runs import train_in_a_process
from tests.mmengine_plugin.engine.small_recipes import CROP, recipe, settings

SOURCE = 'train_dataloader.dataset'
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
ONE_SIZE = [*LOAD, dict(type='Resize', scale=CROP, keep_ratio=False)]
FLIP, PACK = dict(type='RandomFlip', prob=0.5), dict(type='PackDetInputs')
MOSAIC, MIX_UP = dict(type='Mosaic', img_scale=CROP), dict(type='MixUp', img_scale=CROP)
PASTE = dict(type='CopyPaste', mask_occluded_thr=20)


@pytest.fixture
def data(mini_data, monkeypatch) -> Callable[..., object]:
    """A function that builds training data with another pipeline, and one around it for several images."""
    monkeypatch.chdir(mini_data)

    def build(task: str, pipeline: list | None = None, mixing: list | None = None) -> object:
        cfg = copy.deepcopy(recipe(task))
        init_default_scope(cfg.default_scope)
        dataset = cfg.train_dataloader.dataset
        if pipeline is not None:
            dataset.pipeline = copy.deepcopy(pipeline)
        if mixing is not None:
            dataset = ConfigDict(type='MultiImageMixDataset', dataset=dataset, pipeline=copy.deepcopy(mixing))
        return DATASETS.build(dataset)

    return build


@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_a_pipeline_that_works_is_accepted_and_changes_no_random_state(data, task):
    dataset = data(task)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    sample = first_sample(dataset, SOURCE)
    assert sample['inputs'].ndim == 3
    assert torch.equal(torch.get_rng_state(), states[0]) and (np.random.get_state()[1] == states[1]).all()


class Counting:
    """A transform that counts its calls, as one would do that opens a file at the first one."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, results: dict) -> dict:
        self.calls += 1
        return results


@pytest.mark.parametrize('mixing', [None, [MOSAIC, PACK]])
def test_the_trial_leaves_the_transforms_as_they_were(data, mixing):
    boxes, transform = [LOAD[0], dict(type='LoadAnnotations', with_bbox=True)], Counting()
    dataset = data('detection', boxes if mixing else [*boxes, PACK], mixing)
    (leaf,) = leaves(dataset)
    leaf.pipeline.transforms.insert(1, transform)
    assert first_sample(dataset, SOURCE) is not None and transform.calls == 0
    assert dataset[0] is not None and transform.calls > 0


def test_a_pipeline_that_cannot_be_copied_is_not_tried(data):
    dataset, transform = data('detection'), Counting()
    transform.lock = threading.Lock()
    dataset.pipeline.transforms.insert(1, transform)
    assert first_sample(dataset, SOURCE) is None and transform.calls == 0


@pytest.mark.parametrize(
    ('pipeline', 'message'),
    [
        ([*LOAD, FLIP], r"does not pack the sample for the model: add dict\(type='PackDetInputs'\) at the end"),
        (
            [dict(type='Resize', scale=CROP), *LOAD, PACK],
            r'the transform Resize fails .*\.(jpg|png) \[\w+Error: .* in ',
        ),
        ([*LOAD, PASTE, PACK], 'CopyPaste makes one image of several, .* move it to the pipeline of that wrapper'),
        ([*LOAD, MOSAIC, PACK], 'Mosaic makes one image of several'),
        ([LOAD[0], PACK, LOAD[1]], r'does not pack|fails'),
    ],
)
def test_a_pipeline_that_would_fail_is_refused_by_its_transform(data, pipeline, message):
    with pytest.raises(UserError, match=f'^{re.escape(SOURCE)}: .*{message}'):
        first_sample(data('detection', pipeline), SOURCE)


@pytest.mark.parametrize(('transform', 'other'), [(MOSAIC, 'CachedMosaic'), (MIX_UP, 'CachedMixUp')])
def test_mixing_boxes_without_their_masks_is_refused_with_the_transform_to_use(data, transform, other):
    with pytest.raises(UserError, match=f'mixes boxes, but not masks: use {other} '):
        first_sample(data('detection', LOAD, [transform, PACK]), SOURCE)
    boxes = [LOAD[0], dict(type='LoadAnnotations', with_bbox=True)]
    first_sample(data('detection', boxes, [transform, PACK]), SOURCE)
    dataset = data('detection', [*LOAD, transform | dict(type=other), PACK])
    first_sample(dataset, SOURCE)
    for i in range(6):  # as the message says
        found = dataset[i]['data_samples'].gt_instances
        assert len(found.masks) == len(found.bboxes)


def test_copy_paste_needs_images_of_one_size(data):
    first_sample(data('detection', ONE_SIZE, [PASTE, PACK]), SOURCE)
    kept = [*LOAD, dict(type='RandomResize', scale=CROP, ratio_range=(0.5, 2.0), keep_ratio=True)]
    with pytest.raises(UserError, match=r'CopyPaste needs images of one size, and the pipeline of .* gives \d+x\d+, '):
        first_sample(data('detection', kept, [PASTE, PACK]), SOURCE)


def test_a_mosaic_of_label_maps_is_accepted(data):
    load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
    mosaic = dict(type='RandomMosaic', prob=1.0, img_scale=CROP)
    first_sample(data('segmentation', load, [mosaic, dict(type='PackSegInputs')]), SOURCE)


def test_counting_miou_without_label_maps_is_refused(data):
    metric = IoUMetric()
    unlabelled = data('segmentation', [LOAD[0], dict(type='PackSegInputs')])
    validation = RunPart(recipe('segmentation'), torch.nn.Identity(), 'val', metrics=[metric])
    check_label_map(dataclasses.replace(validation, dataset=data('segmentation')))
    with pytest.raises(UserError, match=re.escape("add dict(type='LoadAnnotations')")):
        check_label_map(dataclasses.replace(validation, dataset=unlabelled))
    writing = IoUMetric(format_only=True, output_dir='.')
    check_label_map(dataclasses.replace(validation, dataset=unlabelled, metrics=[writing]))


def test_a_transform_that_leaves_nothing_of_any_image_is_named(data):
    """mmdet's issue 9741 and mmyolo's issue 940."""
    filtered = [*LOAD, dict(type='FilterAnnotations', min_gt_bbox_wh=(500, 500)), PACK]
    dataset = data('detection', filtered)
    dataset.max_refetch = 5
    message = 'after 5 images, the pipeline has found none that FilterAnnotations leaves an object in, as .*500, 500'
    with pytest.raises(UserError, match=message):
        first_sample(dataset, SOURCE)
    filtered[-2]['min_gt_bbox_wh'] = (1, 1)
    first_sample(data('detection', filtered), SOURCE)


def test_a_run_is_refused_before_its_first_step(mini_data, tmp_path, monkeypatch):
    monkeypatch.chdir(mini_data)
    cfg = settings(tmp_path / 'w', 'detection', 'epochs', 'fp32', 'plain')
    cfg.train_dataloader.dataset.pipeline = [*LOAD, FLIP]
    assert_refused_early(train_in_a_process(tmp_path / 'log', cfg), 'does not pack the sample')


def test_the_copy_paste_that_docs_show_trains(mini_data, tmp_path, monkeypatch):
    monkeypatch.chdir(mini_data)
    (text,) = re.findall('```python\n# copy_paste.py\n(.*?)```', (ROOT / 'docs/inheriting.md').read_text(), re.DOTALL)
    (tmp_path / 'mine.py').write_text(text.replace('size = (1024, 1024)', f'size = {CROP}'))
    shown = Config.fromfile(tmp_path / 'mine.py').train_dataloader.dataset
    cfg = settings(tmp_path / 'w', 'detection', 'epochs', 'fp32', 'plain')
    own = {key: cfg.train_dataloader.dataset[key] for key in ('data_root', 'ann_file', 'data_prefix', 'metainfo')}
    cfg.train_dataloader.dataset = shown
    shown.dataset.update(own)
    code, output = train_in_a_process(tmp_path / 'log', cfg)
    assert code == 0 and 'loss_mask' in output and 'coco/segm_mAP' in output, output[-3000:]
