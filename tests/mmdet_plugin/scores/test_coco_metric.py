"""COCO's scores equal those of pycocotools to the last bit, with either backend."""

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import METRICS
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbones import UserError
from mmdet_plugin.scores.coco_evaluators import FastCOCOeval, evaluator
from mmdet_plugin.scores.coco_metric import BACKENDS, CocoMetric, FastCocoMetric, coco_metric
from tests.conftest import DETECTION, FOLDERS

# all names that mmdet has, in the order of pycocotools
NAMES = 'mAP mAP_50 mAP_75 mAP_s mAP_m mAP_l AR@100 AR@300 AR@1000 AR_s@1000 AR_m@1000 AR_l@1000'.split()


@pytest.fixture(scope='module', params=['mini', 'real'])
def file(request, mini_data, tmp_path_factory) -> Path:
    """An annotation file with objects of all sizes, crowds and images without objects."""
    name = 'coco/annotations/instances_val2017.json'
    if request.param == 'real':
        found = [folder / name for folder in FOLDERS if (folder / name).is_file()]
        return found[0] if found else pytest.skip(f'no {name} in {" or ".join(map(str, FOLDERS))}')
    content = json.loads((mini_data / 'data/mini' / name.replace('val', 'train')).read_text())
    assert {a['iscrowd'] for a in content['annotations']} == {0, 1}
    for number, image in enumerate(content['images'][:4]):  # nothing is large in the mini set
        mark = dict(id=10**6 + number, image_id=image['id'], category_id=13, iscrowd=0, bbox=[20, 10, 120, 120])
        content['annotations'].append(mark | dict(area=120.0**2, segmentation=[[20, 10, 140, 10, 140, 130, 20, 130]]))
    path = tmp_path_factory.mktemp('mini') / 'instances.json'
    path.write_text(json.dumps(content))
    return path


def detect(file: Path) -> list[dict]:
    """Detections in COCO's format, some near objects, many with equal scores; of 8 images one has none, one has 130."""
    truth, rng, results = COCO(str(file)), np.random.default_rng(0), []
    for number, (id_, image) in enumerate(truth.imgs.items()):
        marks, size = truth.imgToAnns[id_], (image['height'], image['width'])
        for _ in range({0: 0, 1: 130}.get(number % 8, 20)):
            category, mask = int(rng.choice(truth.getCatIds())), None
            box = np.append(rng.uniform(0, size[::-1]), np.exp(rng.uniform(1, 5.5, 2)))
            if marks and rng.random() < 0.7:
                mark = marks[rng.integers(len(marks))]
                category, box, mask = mark['category_id'], np.array(mark['bbox'], float), truth.annToRLE(mark)
            box += rng.choice([0, 0.03, 0.15]) * rng.standard_normal(4) * box[[2, 3, 2, 3]]
            x, y, w, h = box.astype(np.float32).tolist()
            if mask is None or rng.random() < 0.7:
                mask = rle.frPyObjects([[x, y, x + w, y, x + w, y + h, x, y + h]], *size)[0]
            found = dict(image_id=id_, category_id=category, score=int(rng.integers(64)) / 64, bbox=[x, y, w, h])
            results.append(found | dict(segmentation=mask))
    return results


def evaluate(cls, file: Path, results: list[dict], kind: str, **params):
    """Run an evaluation with mmdet's limits of detections in an image."""
    truth = COCO(str(file))
    other = dict(bbox='segmentation', segm='bbox')[kind]
    found = truth.loadRes([{key: value for key, value in result.items() if key != other} for result in results])
    evaluation = cls(truth, found, kind)
    vars(evaluation.params).update(maxDets=[100, 300, 1000], **params)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation


@pytest.mark.parametrize('use_cats', [1, 0])
@pytest.mark.parametrize('kind', ['bbox', 'segm'])
def test_every_number_equals_that_of_pycocotools_to_the_last_bit(file, kind, use_cats):
    results = detect(file)
    theirs, ours = (evaluate(cls, file, results, kind, useCats=use_cats) for cls in (COCOeval, evaluator))
    assert isinstance(ours, FastCOCOeval)
    assert len(theirs.stats) == 12 and (theirs.stats > 0).all() and (ours.stats == theirs.stats).all()
    for key in ('precision', 'recall', 'scores'):
        assert np.array_equal(ours.eval[key], theirs.eval[key])
    assert np.array_equal(ours.params.recThrs, theirs.params.recThrs)


def test_a_part_of_the_categories_and_images_can_be_scored(file):
    truth, results = COCO(str(file)), detect(file)
    some = dict(catIds=truth.getCatIds()[::-2], imgIds=truth.getImgIds()[1::2])
    theirs, ours = (evaluate(cls, file, results, 'bbox', **some) for cls in (COCOeval, evaluator))
    assert theirs.stats[0] > 0 and (ours.stats == theirs.stats).all()


def write(path: Path, ids: list, categories: int) -> list[dict]:
    """Write an annotation file with an object and a crowd of each category in each image; return detections."""
    marks = [dict(image_id=i, category_id=k, bbox=[8 * k, 8, 6, 9]) for i in ids for k in range(1, categories + 1)]
    crowds = [mark | dict(bbox=[0, 100, 99, 99], iscrowd=1) for mark in marks]
    content = dict(
        images=[dict(id=i, file_name=f'{i}.jpg', height=200, width=200) for i in ids],
        categories=[dict(id=k, name=str(k)) for k in range(1, categories + 1)],
        annotations=[dict(id=n, iscrowd=0, area=54) | mark for n, mark in enumerate(marks + crowds, start=1)],
    )
    path.write_text(json.dumps(content))
    return [mark | dict(score=0.5) for mark in marks]


def test_an_average_between_two_thousandths_is_rounded_like_that_of_pycocotools(tmp_path):
    results = write(tmp_path / 'truth.json', [1], categories=16)[:3]
    theirs, ours = (evaluate(cls, tmp_path / 'truth.json', results, 'bbox') for cls in (COCOeval, evaluator))
    assert theirs.stats[0] < 3 / 16 and ours.stats[0] == theirs.stats[0]  # 0.187, where 3 / 16 is 0.188
    assert isinstance(ours, FastCOCOeval)


@pytest.mark.parametrize('ids', [['a', 'b'], [2**53, 2**53 + 1]])
def test_image_ids_may_be_strings_or_integers_that_no_float_holds(tmp_path, ids):
    results = write(tmp_path / 'truth.json', ids, categories=2)[:3]
    theirs, ours = (evaluate(cls, tmp_path / 'truth.json', results, 'bbox') for cls in (COCOeval, evaluator))
    assert 0.7 < theirs.stats[0] < 0.8 and (ours.stats == theirs.stats).all()


def score(file: Path, results: list[dict], **arguments) -> dict[str, float]:
    """Score detections with the metric of the configs."""
    cfg = Config.fromfile(DETECTION).val_evaluator
    metric = METRICS.build(dict(cfg, _scope_='mmdet', ann_file=str(file), **arguments))
    truth, by_image = COCO(str(file)), defaultdict(list)
    for result in results:
        by_image[result['image_id']].append(result)
    metric.dataset_meta = dict(classes=[category['name'] for category in truth.dataset['categories']])
    labels = {category['id']: label for label, category in enumerate(truth.dataset['categories'])}
    for id_, image in truth.imgs.items():
        found = by_image[id_]
        x, y, w, h = torch.tensor([result['bbox'] for result in found]).reshape(-1, 4).unbind(1)
        instances = dict(
            bboxes=torch.stack([x, y, x + w, y + h], 1),
            scores=torch.tensor([result['score'] for result in found]),
            labels=torch.tensor([labels[result['category_id']] for result in found], dtype=torch.long),
            masks=[dict(result['segmentation']) for result in found],
        )
        metric.process({}, [dict(img_id=id_, ori_shape=(image['height'], image['width']), pred_instances=instances)])
    return metric.evaluate(len(truth.imgs))


def shared() -> list[dict]:
    """What other metrics in this process use, too."""
    modules = {name: id(module) for name, module in sys.modules.items() if 'coco' in name}
    return [modules, *(dict(vars(owner)) for owner in (coco_metric, CocoMetric, COCOeval))]


def test_the_backend_changes_no_score_and_no_other_metric(file, tmp_path, capsys):
    results, before = detect(file), shared()
    everything = dict(metric=['bbox', 'segm', 'proposal'], metric_items=NAMES, classwise=True)
    scores, written, said = [], [], []
    for number, switch in enumerate([{}, dict(backend='pycocotools')]):  # the default of the configs comes first
        prefix = tmp_path / str(number)
        scores.append(score(file, results, **everything, outfile_prefix=str(prefix), **switch))
        written.append([prefix.with_suffix(f'.{kind}.json').read_bytes() for kind in ('bbox', 'segm')])
        said.append('Running per image evaluation' in capsys.readouterr().out)  # pycocotools prints this
    assert said == [False, True]
    assert len(scores[0]) >= 3 * len(NAMES) and json.dumps(scores[0]) == json.dumps(scores[1])
    assert written[0] == written[1]
    assert shared() == before


def test_an_error_in_the_evaluation_leaves_mmdet_unchanged(tmp_path):
    results, before = write(tmp_path / 'truth.json', [1], categories=2), shared()
    for result in results:
        result['segmentation'] = dict(size=[0, 0], counts=None)
    with pytest.raises(Exception, match='.') as error:
        score(tmp_path / 'truth.json', results, metric='segm')
    print(repr(error))
    assert shared() == before


@pytest.mark.parametrize('backend', BACKENDS)
def test_a_detector_that_finds_nothing_has_no_scores(tmp_path, backend):
    write(tmp_path / 'truth.json', [1], categories=2)
    assert score(tmp_path / 'truth.json', [], metric='bbox', backend=backend) == {}


def test_an_unknown_backend_is_answered_with_the_nearest():
    with pytest.raises(UserError, match="no backend 'faster-coco-eval'.*did you mean 'faster_coco_eval'"):
        FastCocoMetric(backend='faster-coco-eval')
