"""Checked samples of pipelines that return several images: test-time augmentation and branches."""

import copy
from collections.abc import Callable

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope

from backbones import UserError
from mmengine_plugin.checks.augmented_tests import check_test_time_augmentation
from tests.mmengine_plugin.engine.small_recipes import recipe

KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip', 'flip_direction')
LOAD = dict(type='LoadImageFromFile')
BOXES = dict(type='LoadAnnotations', with_bbox=True)
SCALES = ((112, 80), (168, 120))


def augmented(task: str, scales: tuple[tuple[int, int], ...], flips: tuple[float, ...]) -> list[dict]:
    """A pipeline that gives an image at several scales, as it is or flipped."""
    annotations, pack = BOXES, dict(type='PackDetInputs', meta_keys=KEYS)
    if task == 'segmentation':
        annotations, pack = dict(type='LoadAnnotations'), dict(type='PackSegInputs')
    steps = [
        [dict(type='Resize', scale=scale, keep_ratio=True) for scale in scales],
        [dict(type='RandomFlip', prob=prob) for prob in flips],
        [annotations],
        [pack],
    ]
    return [LOAD, dict(type='TestTimeAug', transforms=steps)]


@pytest.fixture
def data(mini_data, monkeypatch) -> Callable[[str, list], object]:
    """A function that builds the test data of a task with another pipeline."""
    monkeypatch.chdir(mini_data)

    def build(task: str, pipeline: list) -> object:
        cfg = copy.deepcopy(recipe(task))
        init_default_scope(cfg.default_scope)
        cfg.test_dataloader.dataset.update(pipeline=pipeline, test_mode=True)
        return DATASETS.build(cfg.test_dataloader.dataset)

    return build


def faster_rcnn() -> dict:
    """The small detector without its mask head."""
    model = copy.deepcopy(recipe('detection').model)
    model.update(type='FasterRCNN')
    model.roi_head.update(mask_roi_extractor=None, mask_head=None)
    return model


def predict(model: torch.nn.Module, dataset: object) -> list:
    """The predictions for the first images of a data set."""
    with torch.no_grad():
        return [model.test_step(pseudo_collate([dataset[i]]))[0] for i in range(len(dataset))]


def test_boxes_of_one_view_are_those_without_augmentation_and_those_of_more_views_differ(data):
    one_view = data('detection', augmented('detection', SCALES[:1], (0.0,)))
    plain = data('detection', [LOAD, dict(type='Resize', scale=SCALES[0], keep_ratio=True), BOXES, one_view_pack()])
    torch.manual_seed(0)
    detector = MODELS.build(faster_rcnn()).eval()
    merging = ConfigDict(nms=dict(type='nms', iou_threshold=1.0), max_per_img=10)
    tta = MODELS.build(dict(type='DetTTAModel', module=copy.deepcopy(faster_rcnn()), tta_cfg=merging)).eval()
    tta.module.load_state_dict(detector.state_dict())
    for expected, found in zip(predict(detector, plain), predict(tta, one_view), strict=True):
        assert len(expected.pred_instances) > 0
        torch.testing.assert_close(found.pred_instances.bboxes, expected.pred_instances.bboxes)
        torch.testing.assert_close(found.pred_instances.scores, expected.pred_instances.scores)
    several = predict(tta, data('detection', augmented('detection', SCALES, (0.0, 1.0))))
    for one, more in zip(predict(tta, one_view), several, strict=True):
        assert not torch.equal(one.pred_instances.scores, more.pred_instances.scores)


def one_view_pack() -> dict:
    return dict(type='PackDetInputs', meta_keys=KEYS[:5])


def test_label_maps_of_several_scales_and_flips_are_predicted(data):
    dataset = data('segmentation', augmented('segmentation', SCALES, (0.0, 1.0)))
    model = copy.deepcopy(recipe('segmentation').model)
    tta = MODELS.build(dict(type='SegTTAModel', module=model)).eval()
    for i, sample in enumerate(predict(tta, dataset)):
        assert sample.pred_sem_seg.data.shape[-2:] == sample.gt_sem_seg.data.shape[-2:]
        assert len(dataset[i]['inputs']) == 4


def test_each_view_is_checked(data):
    """A label map that does not have the size of its image is refused in each view."""
    pipeline = augmented('segmentation', SCALES, (0.0,))
    checked = []
    dataset = data('segmentation', pipeline)
    dataset.refuse_sample = lambda info, sample: checked.append(tuple(sample['inputs'].shape[-2:]))
    dataset[0]
    assert len(checked) == 2 and checked[0] != checked[1]


def test_a_sample_of_several_branches_is_checked_branch_by_branch(data):
    """mmdet's semi-supervised detectors load an image with labels into one branch, and leave the other ones empty."""
    pack = [dict(type='PackDetInputs')]
    branches = dict(type='MultiBranch', branch_field=['sup', 'unsup_teacher', 'unsup_student'], sup=pack)
    sample = data('detection', [LOAD, BOXES, branches])[0]
    assert sample['data_samples']['unsup_teacher'] is None and len(sample['data_samples']['sup'].gt_instances) > 0


@pytest.mark.parametrize('masks', [True, False])
def test_merging_masks_is_refused_before_the_test(masks):
    init_default_scope('mmdet')
    module = copy.deepcopy(recipe('detection').model) if masks else faster_rcnn()
    model = MODELS.build(dict(type='DetTTAModel', module=module, tta_cfg=dict()))
    if masks:
        with pytest.raises(UserError, match='DetTTAModel merges boxes, but not masks'):
            check_test_time_augmentation(model)
    else:
        check_test_time_augmentation(model)
