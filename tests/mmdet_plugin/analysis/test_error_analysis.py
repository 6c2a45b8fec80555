"""The analysis of a detector agrees with its score, counts each object once, and refuses results of something else."""

import copy
import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.fileio import dump
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from pycocotools import mask as rle

from backbones.errors import UserError
from mmdet_plugin.analysis.error_analysis import analyze
from mmdet_plugin.analysis.matching import confusions
from mmdet_plugin.analysis.result_samples import read_samples
from mmdet_plugin.analysis.tide import match_image
from mmengine_plugin.analysis.report import score
from tests.conftest import DETECTION

CLASSES = ('cat', 'dog', 'owl')
SIZE = (96, 128)


def write_truth(root: Path, ids: tuple = (1, 2, 3, 4)) -> dict:
    """Write four images with a cat, a dog and a crowd of cats each, and no owl; the categories are in another order."""
    (root / 'images').mkdir(parents=True)
    rng, images, marks = np.random.RandomState(0), [], []
    for number, id_ in enumerate(ids):
        Image.fromarray(rng.randint(0, 256, (*SIZE, 3), dtype=np.uint8)).save(root / f'images/{number}.png')
        images.append(dict(id=id_, file_name=f'{number}.png', height=SIZE[0], width=SIZE[1]))
        for category, left, crowd in ((1, 4, 0), (2, 50, 0), (1, 90, 1)):
            x, y, w, h = left + rng.randint(8), rng.randint(40), 30, 36
            polygon = [[float(v) for v in (x, y, x + w, y, x + w, y + h, x, y + h)]]
            if crowd:
                (mask,) = rle.frPyObjects(polygon, *SIZE)
                polygon = mask | dict(counts=mask['counts'].decode())
            mark = dict(id=len(marks) + 1, image_id=id_, category_id=category, iscrowd=crowd, area=w * h)
            marks.append(mark | dict(bbox=[x, y, w, h], segmentation=polygon))
    names = [dict(id=3, name='owl'), dict(id=2, name='dog'), dict(id=1, name='cat')]
    content = dict(images=images, annotations=marks, categories=names)
    (root / 'a.json').write_text(json.dumps(content))
    return content


def detect(content: dict, masks: bool = True) -> list[dict]:
    """Results as DumpDetResults writes them: cats are found, dogs are taken for owls, and one cat is far off."""
    samples, rng = [], np.random.RandomState(1)
    for image in content['images']:
        marks = [mark for mark in content['annotations'] if mark['image_id'] == image['id']]
        boxes = np.array([mark['bbox'] for mark in marks], float) + rng.randint(-2, 3, (len(marks), 4))
        boxes = np.vstack([boxes, [0, 80, 9, 9]])
        corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
        instances = dict(
            bboxes=torch.tensor(corners, dtype=torch.float32),
            scores=torch.tensor([0.9, 0.8, 0.7, 0.6]) - image['height'] % 7 / 100,
            labels=torch.tensor([0, 2, 0, 0]),
        )
        if masks:
            polygons = [[[x, y, u, y, u, v, x, v]] for x, y, u, v in corners.tolist()]
            instances['masks'] = [rle.frPyObjects(polygon, *SIZE)[0] for polygon in polygons]
        samples.append(dict(img_id=image['id'], ori_shape=SIZE, img_path='', pred_instances=instances))
    return samples


@functools.cache
def base() -> Config:
    return Config.fromfile(DETECTION)


def config(root: Path, **options) -> Config:
    cfg = copy.deepcopy(base())
    data = dict(data_root=f'{root}/', ann_file='a.json', metainfo=dict(classes=CLASSES))
    cfg.merge_from_dict(dict(test_dataloader=dict(dataset=data), test_evaluator=dict(ann_file=f'{root}/a.json')))
    cfg.test_dataloader.dataset.data_prefix = dict(img='images/')
    cfg.merge_from_dict(options)
    init_default_scope('mmdet')
    return cfg


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / 'data'


def analyzed(root: Path, samples: list[dict], **options):
    dump(samples, root / 'r.pkl')
    return analyze(config(root, **options), str(root / 'r.pkl'), root / 'out', 0.3)


@pytest.fixture(scope='module')
def plain(tmp_path_factory):
    """Data, results, and their analysis."""
    root = tmp_path_factory.mktemp('detector') / 'data'
    samples = detect(write_truth(root))
    return root, samples, analyzed(root, samples)


def test_only_the_images_that_were_tested_are_scored(root):
    samples = detect(write_truth(root))[:2]
    report = analyzed(root, samples, **{'test_dataloader.dataset.indices': 2})
    cat = next(row for row in report.content['classes'] if row['name'] == 'cat')
    other = root.parent / 'whole'
    whole = analyzed(other, detect(write_truth(other)))
    of_all = next(row for row in whole.content['classes'] if row['name'] == 'cat')
    assert cat['box_AP50'] == of_all['box_AP50'] > 0.5  # each image is alike
    assert report.scores['coco/bbox_mAP_50'] > 0


def test_the_scores_are_those_of_the_evaluator_and_the_mean_of_the_classes(plain):
    root, samples, report = plain
    evaluator = Evaluator(config(root).test_evaluator)
    evaluator.dataset_meta = dict(classes=CLASSES)
    assert report.scores == evaluator.offline_evaluate(samples)
    rows = {row['name']: row for row in report.content['classes']}
    assert [rows[name]['objects'] for name in CLASSES] == [4, 4, 0]
    for part, kind in (('box', 'bbox'), ('mask', 'segm')):
        averages = [rows[name][f'{part}_AP'] for name in CLASSES]
        assert averages[0] > 0 and averages[1] == 0 and averages[2] is None
        assert report.scores[f'coco/{kind}_mAP'] == pytest.approx(np.mean(averages[:2]), abs=5e-4)  # mmdet rounds it
        costs = report.content['errors'][part]['costs']
        assert report.scores[f'coco/{kind}_mAP_50'] == pytest.approx(costs['AP50'] / 100, abs=5e-4)
    assert 'no objects: owl' in report.tables[1]


def test_each_kind_of_error_is_counted_in_its_class(plain):
    report = plain[2]
    rows = {row['name']: row['box_errors'] for row in report.content['classes']}
    assert rows['owl'] == dict.fromkeys(rows['owl'], 0) | dict(Classification=4)
    assert rows['dog']['Missed'] == 0  # each would be found if its class were right
    matrix = np.array(report.content['confusion']['matrix'])
    assert report.content['confusion']['names'] == [*CLASSES, 'background']
    assert matrix.sum(1)[:3].tolist() == [4, 4, 0]  # each object once, crowds not
    assert matrix[1, 2] == 4 and matrix[3, 0] == 4  # dogs taken for owls, cats without an object
    assert report.content['confusion']['largest'][0]['count'] == 4
    assert {entry['missed'] for entry in report.content['worst_images']} == {0}


def test_all_figures_are_pictures_and_the_json_has_no_nan(plain):
    root, _, report = plain
    assert report.files == ['errors.png', 'classes.png', 'confusion_matrix.png', 'worst_images.png']
    for name in report.files:
        with Image.open(root / 'out' / name) as picture:
            assert min(picture.size) > 200 and len(picture.convert('RGB').getcolors(1 << 24)) > 10
    json.dumps(report.content, allow_nan=False)


def test_images_may_have_strings_as_ids_and_no_masks(root):
    samples = detect(write_truth(root, ('a', 'b', 'c', 'd')), masks=False)
    report = analyzed(root, samples, **{'test_evaluator.metric': 'bbox'})
    assert list(report.content['errors']) == ['box'] and 'mask_AP' not in report.content['classes'][0]
    assert report.content['worst_images'][0]['id'] in 'abcd'


def test_detections_in_cocos_format_are_the_same_samples(plain):
    root, samples, report = plain
    found = []
    for number, sample in enumerate(samples):
        instances = sample['pred_instances']
        columns = (instances[key] for key in ('bboxes', 'labels', 'scores', 'masks'))
        for box, label, confidence, mask in zip(*columns, strict=True):
            x1, y1, x2, y2 = box.tolist()
            counts = mask['counts']
            entry = dict(image_id=sample['img_id'], category_id=int(label) + 1, score=float(confidence), number=number)
            entry['segmentation'] = mask | dict(counts=counts if isinstance(counts, str) else counts.decode())
            found.append(entry | dict(bbox=[x1, y1, x2 - x1, y2 - y1]))
    (root / 'coco.json').write_text(json.dumps(found))
    for entry in found:  # tools/predict.py numbers images and classes in its own way, and adds their names
        names = dict(file_name=f'elsewhere/{entry["number"]}.png', category_name=CLASSES[entry['category_id'] - 1])
        entry |= names | dict(image_id=100, category_id=100)
    (root / 'predict.json').write_text(json.dumps(found))
    dataset = DATASETS.build(config(root).test_dataloader.dataset)
    for name in ('coco.json', 'predict.json'):
        read = read_samples(root / name, dataset, 'config')
        assert score(config(root), read, dataset.metainfo) == report.scores
    found[0]['category_name'] = 'ox'
    (root / 'predict.json').write_text(json.dumps(found))
    with pytest.raises(UserError, match="entry 0 has category 'ox', which is none of the classes"):
        read_samples(root / 'predict.json', dataset, 'config')


def without_last(samples: list) -> list:
    return samples[:-1]


def of_other_ids(samples: list) -> list:
    return [sample | dict(img_id=sample['img_id'] + 10) for sample in samples]


def of_other_sizes(samples: list) -> list:
    return [sample | dict(ori_shape=(480, 640)) for sample in samples]


def of_more_classes(samples: list) -> list:
    samples[2]['pred_instances']['labels'][0] = 79
    return samples


def of_a_segmentor(samples: list) -> list:
    return [dict(img_path='', pred_sem_seg=dict(data=torch.zeros(1, 2, 2, dtype=torch.uint8))) for _ in samples]


def without_masks(samples: list) -> list:
    for sample in samples:
        del sample['pred_instances']['masks']
    return samples


def without_detections(samples: list) -> list:
    for sample in samples:
        instances = sample['pred_instances']
        sample['pred_instances'] = {key: value[:0] for key, value in instances.items()}
    return samples


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (without_last, 'are those of 3 images, and the test data of .* have 4; they lack image 4 .*3.png'),
        (of_other_ids, 'have an image with the id 11, which .*a.json does not have: name the config'),
        (
            of_other_sizes,
            r'image 1 is 480x640 \(height x width\) there, and 96x128 in .*: the results are those of other',
        ),
        (of_more_classes, 'have label 79, and the 3 classes of .* end at 2: name the config'),
        (of_a_segmentor, 'are those of a segmentor, and .* is a detector: name its own config'),
        (without_masks, "scores 'segm', and the results hold no masks: add --cfg-options test_evaluator.metric=bbox"),
        (without_detections, 'hold 4 images and no detection: there is nothing to analyze'),
        (lambda samples: [dict(a=1)], 'entry 0 has no img_id, or no pred_instances with bboxes, scores, labels'),
    ],
)
def test_results_of_something_else_are_refused_in_one_line(root, change, message):
    samples = change(detect(write_truth(root)))
    with pytest.raises(UserError, match=message) as caught:
        analyzed(root, samples)
    assert '\n' not in str(caught.value)


def test_each_object_and_each_detection_is_in_one_pair():
    scores, labels, truth = np.array([0.9, 0.8, 0.7, 0.2]), np.array([1, 0, 0, 1]), np.array([0, 1])
    iou = np.array([[0.8, 0.0], [0.7, 0.0], [0.1, 0.0], [0.0, 0.9]])
    match = match_image(scores, labels, truth, iou, np.zeros(0, int), np.zeros((4, 0)))
    # the second one finds the object, so the first has none; the last one is below the threshold
    assert sorted(map(tuple, confusions(match, iou, 0.3, 2).tolist())) == [(0, 0), (1, 2), (2, 0), (2, 1)]
    assert sorted(map(tuple, confusions(match, iou, 0.85, 2).tolist())) == [(0, 1), (1, 2)]
