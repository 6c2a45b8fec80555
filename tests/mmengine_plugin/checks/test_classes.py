"""The classes of heads, data sets and checkpoints: what differs is refused before the first step."""

import json
from argparse import Namespace
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, MODELS, init_default_scope
from PIL import Image

import mmdet_plugin  # noqa: F401  (registers mmcv's operators before mmdet is imported)
import mmseg_plugin  # noqa: F401
from backbones import UserError
from mmengine_plugin.checks.class_lists import (
    check_parts,
    class_list_problems,
    concatenation_problems,
    let_parts_lack_classes,
)
from mmengine_plugin.checks.classes import NumClassesHook, check_num_classes
from mmengine_plugin.cli.configs import load_run
from tests.conftest import DETECTION
from tests.mmengine_plugin.checks.small_samples import logged_warnings
from tests.test_bad_input import child, refuses

CATEGORIES = ('cat', 'dog')

# --- heads ------------------------------------------------------------------------------------------------------------

# configs of upstream whose heads have other numbers than the data, or modules of several kinds: the number of classes
ZOO = {
    'mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py': 133,
    'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py': 133,
    'mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py': 80,
    'mmdet::rpn/rpn_r50_fpn_1x_coco.py': 80,
    'mmdet::htc/htc_r50_fpn_1x_coco.py': 80,
    'mmdet::detr/detr_r50_8xb2-150e_coco.py': 80,
    'mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py': 80,
    'mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py': 19,
    'mmseg::ocrnet/ocrnet_hr18_4xb2-40k_cityscapes-512x1024.py': 19,
    'mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py': 150,
}


@pytest.mark.parametrize('name', ZOO)
def test_the_heads_of_upstreams_models_are_accepted_with_their_classes_and_no_others(name, tmp_path):
    (tmp_path / 'mine.py').write_text(f'_base_ = {name!r}')
    cfg = Config.fromfile(tmp_path / 'mine.py')
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    classes = [f'class {i}' for i in range(ZOO[name])]
    check_num_classes(model, classes, 'data')
    if 'rpn_r50' in name:  # it tells objects from the background, whatever their classes
        check_num_classes(model, classes[1:], 'data')
        return
    with pytest.raises(UserError, match=r'but data has \d+ classes|in sum, but data has'):
        check_num_classes(model, classes[1:], 'data')


def test_boxes_of_other_classes_than_the_things_of_a_panoptic_segmentor_are_refused(tmp_path):
    base = 'mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py'
    (tmp_path / 'mine.py').write_text(f'_base_ = {base!r}\nmodel = dict(roi_head=dict(bbox_head=dict(num_classes=79)))')
    cfg = Config.fromfile(tmp_path / 'mine.py')
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    with pytest.raises(
        UserError, match=r'bbox_head\.num_classes is 79, but model\.semantic_head\.num_things_classes is 80'
    ):
        check_num_classes(model, [''] * 133, 'data')


# --- lists ------------------------------------------------------------------------------------------------------------


def with_classes(**lists: object) -> Config:
    """A config whose data loaders have these classes."""
    loaders = {
        f'{split}_dataloader': dict(dataset=dict(type='CocoDataset', metainfo=dict(classes=classes)))
        for split, classes in lists.items()
    }
    return Config(dict(default_scope='mmdet', model=dict(), **loaders))


@pytest.mark.parametrize(
    ('val', 'difference'),
    [
        (('dog', 'cat'), r"class 0 is 'dog' in place of 'cat'"),
        (('cat', 'cow'), r"class 1 is 'cow' in place of 'dog'"),
        (('cat',), r"there is no class 1, which should be 'dog'"),
        (('cat', 'dog', 'cow'), r"class 2 is 'cow', and there should be only 2 classes"),
    ],
)
def test_classes_that_differ_between_loaders_are_found_with_the_first_difference(val, difference):
    (problem,) = class_list_problems(with_classes(train=CATEGORIES, val=val))
    assert problem.startswith(f'val_dataloader.dataset has other classes than train_dataloader.dataset: {difference}')
    assert "Set metainfo=dict(classes=('cat', 'dog')) in both" in problem


def test_classes_of_all_loaders_are_compared_and_lists_equal_tuples():
    assert list(class_list_problems(with_classes(train=CATEGORIES, val=list(CATEGORIES), test=CATEGORIES))) == []
    problems = list(class_list_problems(with_classes(train=CATEGORIES, val=('a', 'b'), test=('c', 'd'))))
    assert [problem.split('.')[0] for problem in problems] == ['val_dataloader', 'test_dataloader']


def test_a_training_with_other_classes_in_the_test_goes_on_with_a_warning():
    data = Namespace(dataset=Namespace(metainfo=dict(classes=CATEGORIES)))
    runner = Namespace(model=torch.nn.Identity(), train_dataloader=data, logger=MMLogger.get_current_instance())
    runner.cfg = with_classes(train=CATEGORIES, val=CATEGORIES, test=('a', 'b', 'c'))
    with logged_warnings() as messages:
        NumClassesHook().before_train(runner)
    assert len(messages) == 1 and messages[0].startswith('test_dataloader.dataset has other classes than train_data')
    runner.cfg = with_classes(train=CATEGORIES, val=('a', 'b', 'c'), test=CATEGORIES)
    with pytest.raises(UserError, match=r'^val_dataloader\.dataset has other classes than train_dataloader'):
        NumClassesHook().before_train(runner)


def test_without_metainfo_the_classes_are_those_of_the_data_sets_type():
    cfg = with_classes(train=('person', 'bicycle'), val=CATEGORIES)
    del cfg.val_dataloader.dataset.metainfo
    (problem,) = class_list_problems(cfg)
    assert "class 2 is 'car', and there should be only 2 classes" in problem


def test_a_model_that_reads_class_names_may_have_data_of_different_classes():
    cfg = with_classes(train=CATEGORIES, val=('a',))
    assert len(list(class_list_problems(cfg))) == 1
    cfg.model.language_model = dict(type='BertModel')
    assert list(class_list_problems(cfg)) == []


def test_a_training_whose_validation_has_the_classes_in_another_order_is_refused(tool, tmp_path, mini_data):
    order = ('donut', 'stop sign', 'sports ball', 'kite', 'banana', 'pizza')
    path = child(tmp_path, f'val_dataloader = dict(dataset=dict(metainfo=dict(classes={order})))')
    done = tool('train.py', path, '--work-dir', tmp_path / 'w', cwd=mini_data)
    refuses(done, "val_dataloader.dataset has other classes than train_dataloader.dataset: class 0 is 'donut'")
    assert 'Epoch(train)' not in done.stdout


def test_a_test_is_refused_if_the_checkpoint_knows_the_classes_in_another_order(tool, tmp_path, mini_data):
    cfg = Config.fromfile(DETECTION)
    init_default_scope(cfg.default_scope)
    trained = cfg.train_dataloader.dataset.metainfo.classes[::-1]
    checkpoint = dict(state_dict=MODELS.build(cfg.model).state_dict(), meta=dict(dataset_meta=dict(classes=trained)))
    torch.save(checkpoint, tmp_path / 'model.pth')
    done = tool('test.py', DETECTION, tmp_path / 'model.pth', '--work-dir', tmp_path / 'w', cwd=mini_data)
    message = 'model.pth was trained on other classes than those of test_dataloader.dataset'
    refuses(done, message, "class 0 is 'stop sign' in place of 'donut'", 'Set metainfo=dict(classes=(')


# --- concatenations ---------------------------------------------------------------------------------------------------


@pytest.fixture
def part(tmp_path) -> Callable[..., dict]:
    """A function that draws a data set of two images, each with an object of each category, and returns its config."""

    def draw(name: str, categories: tuple[str, ...], classes: tuple[str, ...] = CATEGORIES) -> dict:
        (folder := tmp_path / name).mkdir()
        images = [dict(id=i, file_name=f'{i}.png', height=64, width=64) for i in (1, 2)]
        for image in images:
            Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / image['file_name'])
        box = dict(bbox=[8, 8, 32, 32], area=1024, iscrowd=0, segmentation=[[8, 8, 40, 8, 40, 40, 8, 40]])
        pairs = [(image['id'], k) for image in images for k in range(len(categories))]
        marks = [dict(box, id=i + 1, image_id=image, category_id=k + 1) for i, (image, k) in enumerate(pairs)]
        listed = [dict(id=k + 1, name=category) for k, category in enumerate(categories)]
        (folder / 'a.json').write_text(json.dumps(dict(images=images, annotations=marks, categories=listed)))
        pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True)]
        pipeline.append(dict(type='PackDetInputs'))
        return dict(
            type='CheckedCocoDataset',
            ann_file=str(folder / 'a.json'),
            data_prefix=dict(img=str(folder)),
            metainfo=dict(classes=classes),
            pipeline=pipeline,
        )

    return draw


def build(dataset: Mapping) -> object:
    """Build the training data as ``tools/train.py`` does."""
    cfg = Config(dict(default_scope='mmdet', model=dict(), train_dataloader=dict(dataset=dataset)))
    init_default_scope('mmdet')
    let_parts_lack_classes(cfg)
    assert list(concatenation_problems(cfg)) == []
    return DATASETS.build(cfg.train_dataloader.dataset)


def labels(dataset: object) -> list[list[int]]:
    return [dataset[i]['data_samples'].gt_instances.labels.tolist() for i in range(len(dataset))]


@pytest.mark.parametrize('kind', ['ConcatDataset', 'mmengine.ConcatDataset'])
def test_parts_that_lack_classes_are_joined_by_name(part, kind):
    parts = [part('a', ('dog', 'cat')), part('b', ('dog',)), part('c', ('cat',))]
    dataset = build(dict(type=kind, datasets=parts))
    check_parts(dataset)
    assert dataset.metainfo['classes'] == CATEGORIES
    assert labels(dataset) == [[1, 0]] * 2 + [[1]] * 2 + [[0]] * 2


def test_parts_in_wrappers_are_joined_too(part):
    parts = [dict(type='RepeatDataset', times=2, dataset=part('b', ('dog',))), part('c', ('cat',))]
    dataset = build(dict(type='RepeatDataset', times=1, dataset=dict(type='mmengine.ConcatDataset', datasets=parts)))
    check_parts(dataset)
    assert labels(dataset) == [[1]] * 4 + [[0]] * 2


def test_a_class_that_no_part_has_is_refused(part):
    classes = ('cat', 'dgo')
    parts = [part('a', ('dog', 'cat'), classes), part('b', ('cat',), classes)]
    dataset = build(dict(type='ConcatDataset', datasets=parts))
    with pytest.raises(UserError, match="none of the 2 concatenated data sets has the class 'dgo'"):
        check_parts(dataset)


def test_a_data_set_that_is_no_part_must_have_all_classes(part):
    with pytest.raises(UserError, match="it has no category 'cat'"):
        build(part('b', ('dog',)))


def test_parts_with_lists_of_their_own_are_refused_with_the_list_of_all(part):
    parts = [part('a', ('cat',), ('cat',)), part('b', ('dog',), ('dog',))]
    dataset = dict(type='ConcatDataset', datasets=parts)
    cfg = Config(dict(default_scope='mmdet', model=dict(), train_dataloader=dict(dataset=dataset)))
    (problem,) = concatenation_problems(cfg)
    key = 'train_dataloader.dataset.datasets'
    assert problem.startswith(f"{key}.1 has other classes than {key}.0: class 0 is 'dog' in place of 'cat'")
    assert "metainfo=dict(classes=('cat', 'dog'))" in problem


def test_upstreams_evaluator_of_several_data_sets_may_have_a_list_for_each(part):
    parts = [part('a', ('cat',), ('cat',)), part('b', ('dog',), ('dog',))]
    loader = dict(dataset=dict(type='ConcatDataset', datasets=parts))
    cfg = Config(dict(default_scope='mmdet', model=dict(), val_dataloader=loader))
    assert len(list(concatenation_problems(cfg))) == 1
    cfg.val_evaluator = dict(type='MultiDatasetsEvaluator')
    assert list(concatenation_problems(cfg)) == []


def test_a_run_with_lists_that_differ_is_refused_before_anything_is_built(tmp_path):
    part_ = "dict(type='CheckedCocoDataset', ann_file='a.json', metainfo=dict(classes=({})))"
    parts = ', '.join(part_.format(f"'{name}',") for name in CATEGORIES)
    dataset = f"dict(_delete_=True, type='ConcatDataset', datasets=[{parts}])"
    path = child(tmp_path, f'train_dataloader = dict(dataset={dataset})')
    work_dir = tmp_path / 'w'
    arguments = Namespace(config=path, cfg_options={}, launcher='none', trust_checkpoint=False, work_dir=work_dir)
    with pytest.raises(UserError, match=r'train_dataloader\.dataset\.datasets\.1 has other classes than'):
        load_run(arguments)
    assert not work_dir.exists()
