"""The settings of COCO's metric give the scores that their names say, or are refused before the first step."""

import copy

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbones import UserError
from mmdet_plugin.scores.coco_metric import BACKENDS, FastCocoMetric
from mmengine_plugin.checks.scores import score_names
from tests.mmdet_plugin.data.small_sets import CLASSES, IMAGES, build, draw, perfect_scores, predict, write

DENSE = 150  # objects in an image


def draw_dense(root) -> dict:
    """Images with many small objects of one class."""
    content = draw(root)
    content['annotations'] = []
    for image in content['images'][:1]:
        for number in range(DENSE):
            x, y = 2 + 8 * (number % 15), 2 + 9 * (number // 15)
            mark = dict(id=number + 1, image_id=image['id'], category_id=1, bbox=[x, y, 6, 7], area=42, iscrowd=0)
            content['annotations'].append(mark | dict(segmentation=[[x, y, x + 6, y, x + 6, y + 7, x, y + 7]]))
    write(root, content)
    return content


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('numbers', [(300,), (300, 500, 1000), (1000, 300), (150,)])
def test_map_counts_as_many_detections_as_are_asked_for(numbers, backend, tmp_path):
    content = draw_dense(tmp_path)
    assert 0.6 < perfect_scores(tmp_path, content, backend=backend)['coco/bbox_mAP'] < 0.7  # 100 of 150, as in COCO
    scores = perfect_scores(tmp_path, content, backend=backend, proposal_nums=numbers)
    assert scores['coco/bbox_mAP'] == scores['coco/bbox_mAP_50'] == 1
    scores = perfect_scores(tmp_path, content, backend=backend, proposal_nums=(100, 300))
    assert scores['coco/bbox_mAP'] < 0.7 < scores['coco/bbox_mAP_50'] == 1


def test_recalls_are_named_by_their_numbers(tmp_path):
    content, numbers = draw_dense(tmp_path), (1, 10, 100)
    items = ['mAP', 'AR@1', 'AR@10', 'AR@100', 'AR_s@100']
    scores = perfect_scores(tmp_path, content, proposal_nums=numbers, metric_items=items)
    expected = [round(number / DENSE, 3) for number in numbers]
    assert [scores[f'coco/bbox_AR@{number}'] for number in numbers] == expected
    assert scores['coco/bbox_AR_s@100'] == expected[-1]
    with pytest.raises(UserError, match=r"metric_items has 'AR@300' \(did you mean 'AR@100'.*there are mAP, mAP_50"):
        FastCocoMetric(proposal_nums=numbers, metric_items=['AR@300'])


@pytest.mark.parametrize('numbers', [(), (1, 2, 3, 4), (0,), ('100',)])
def test_numbers_of_detections_that_no_score_can_count_are_refused(numbers):
    with pytest.raises(UserError, match=r'write one to three numbers of detections, such as proposal_nums=\(100, 300'):
        FastCocoMetric(proposal_nums=numbers)
    assert len(FastCocoMetric(metric='proposal_fast', proposal_nums=(1, 2, 3, 4)).proposal_nums) == 4


def shifted(content: dict) -> dict:
    """The objects, moved so that their IoU with the original is between 0.5 and 0.75."""
    content = copy.deepcopy(content)
    for mark in content['annotations']:
        x, y, w, h = mark['bbox']
        mark['bbox'] = [x + w // 4, y, w, h]
    return content


def by_pycocotools(path, content: dict, iou: float) -> float:
    """The average precision at one IoU, by pycocotools alone."""
    truth = COCO(str(path))
    evaluation = COCOeval(truth, truth.loadRes([dict(mark, score=1.0) for mark in content['annotations']]), 'bbox')
    evaluation.params.iouThrs = np.array([iou])
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval['precision'][:, :, :, 0, -1]
    return round(float(precision[precision > -1].mean()), 3)


@pytest.mark.parametrize(
    ('ious', 'names'),
    [(0.5, {'mAP', 'mAP_50'}), ([0.55], {'mAP'}), ([0.5, 0.75], {'mAP', 'mAP_50', 'mAP_75'}), ((0.25,), {'mAP'})],
)
def test_ious_may_be_a_number_or_a_list_and_scores_of_others_do_not_appear(ious, names, tmp_path):
    content = draw(tmp_path)
    path, found = write(tmp_path, content), shifted(content)
    expected = np.mean([by_pycocotools(path, found, iou) for iou in np.atleast_1d(ious)])
    scores = perfect_scores(tmp_path, found, iou_thrs=ious, classwise=True)
    assert scores['coco/bbox_mAP'] == scores['coco/cat_precision'] == pytest.approx(expected, abs=1e-3)
    assert {name for name in scores if name.startswith('coco/bbox')} == {
        f'coco/bbox_{name}' for name in names | {'mAP_s', 'mAP_m', 'mAP_l'}
    }
    metric = FastCocoMetric(ann_file=str(path), iou_thrs=ious, classwise=True)
    metric.dataset_meta = dict(classes=CLASSES)
    assert score_names(metric) == set(scores)


def test_boxes_and_masks_of_a_class_have_scores_of_their_own(tmp_path):
    content = draw(tmp_path)
    right = copy.deepcopy(content)
    for mark in content['annotations'][::2]:
        mark['segmentation'] = [[value / 2 for value in mark['segmentation'][0]]]
    write(tmp_path, content)
    both = dict(metric=['bbox', 'segm'], classwise=True)
    scores = perfect_scores(tmp_path, right, **both)
    assert [scores[f'coco/{kind}_cat_precision'] for kind in ('bbox', 'segm')] == [1, 0]
    assert [scores[f'coco/{kind}_dog_precision'] for kind in ('bbox', 'segm')] == [1, 1]
    assert 'coco/cat_precision' not in scores
    alone = perfect_scores(tmp_path, right, metric='segm', classwise=True)
    assert alone['coco/cat_precision'] == 0  # mmdet's name, if there is only one kind
    metric = FastCocoMetric(**both)
    metric.dataset_meta = dict(classes=CLASSES)
    assert score_names(metric) == set(scores)


def test_an_unknown_score_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"metric_items has 'mAP50' \(did you mean 'mAP_50'\?\)"):
        FastCocoMetric(metric_items=['mAP50'])
    with pytest.raises(UserError, match='metric_items has .mAP_75.'):
        FastCocoMetric(metric_items=['mAP_75'], iou_thrs=[0.5])
    FastCocoMetric(metric_items=['mAP_50'])


@pytest.mark.parametrize('metric', ['bbox', 'proposal'])
def test_the_images_that_were_tested_are_scored(metric, tmp_path):
    content = draw(tmp_path)
    write(tmp_path, content)
    name = 'coco/bbox_mAP' if metric == 'bbox' else 'coco/AR@100'
    for indices in (2, [3, 1], list(range(IMAGES))):
        scores = perfect_scores(tmp_path, content, data=dict(indices=indices), metric=metric)
        assert scores[name] == pytest.approx(1)
    missed = copy.deepcopy(content)
    missed['annotations'] = [mark for mark in content['annotations'] if mark['image_id'] != 2]
    assert perfect_scores(tmp_path, missed, data=dict(indices=2), metric=metric)[name] == pytest.approx(0.5, abs=0.01)


def test_samples_that_carry_their_objects_may_have_the_image_ids_of_another_set(tmp_path):
    content = draw(tmp_path)
    write(tmp_path, content)
    dataset = build(tmp_path, test_mode=True)
    for found, expected in ((content, 1), (shifted(content), 0.3)):
        metric = FastCocoMetric()
        metric.dataset_meta = dataset.metainfo
        for _ in range(2):  # the second validation of a training, and a set with the same ids
            predict(dataset, found, lambda samples, metric=metric: metric.process({}, samples))
            predict(dataset, found, lambda samples, metric=metric: metric.process({}, samples))
            assert metric.evaluate(2 * IMAGES)['coco/bbox_mAP'] == pytest.approx(expected, abs=0.05)
