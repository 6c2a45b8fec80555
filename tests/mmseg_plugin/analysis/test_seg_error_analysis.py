"""The analysis of a segmentor agrees with its score, and refuses results of something else."""

import copy
import functools
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.fileio import dump
from mmengine.registry import init_default_scope
from PIL import Image

from backbones.errors import UserError
from mmseg_plugin import DumpSegResults
from mmseg_plugin.analysis import error_analysis
from mmseg_plugin.analysis.error_analysis import analyze
from tests.conftest import SEGMENTATION

CLASSES = ('ground', 'thing', 'sky', 'sea')
IGNORED = 255


def write(root: Path, number: int = 4) -> list[dict]:
    """Write images of ground and things with some ignored pixels; return results that take half of a thing for sky."""
    rng, samples = np.random.RandomState(0), []
    for folder in ('i', 'm'):
        (root / folder).mkdir(parents=True)
    for index in range(number):
        truth = np.zeros((48, 64), np.uint8)
        truth[10:30, 10 + index : 40] = 1
        truth[:4] = IGNORED
        predicted = truth.copy()
        predicted[:4], predicted[10:20, 10:40] = 3, 2
        predicted[40:, : 5 * index] = 1
        Image.fromarray(rng.randint(0, 256, (48, 64, 3), dtype=np.uint8)).save(root / f'i/{index}.jpg')
        Image.fromarray(truth).save(root / f'm/{index}.png')
        maps = dict(gt_sem_seg=truth, pred_sem_seg=predicted)
        sample = {key: dict(data=torch.from_numpy(value)[None]) for key, value in maps.items()}
        samples.append(sample | dict(img_path=f'{root}/i/{index}.jpg', ori_shape=(48, 64)))
    return samples


@functools.cache
def base() -> Config:
    return Config.fromfile(SEGMENTATION)


def config(root: Path) -> Config:
    cfg = copy.deepcopy(base())
    pipeline = cfg.test_dataloader.dataset.pipeline
    folders = dict(img_path='i', seg_map_path='m')
    cfg.test_dataloader.dataset = dict(
        type='FolderDataset',
        data_root=str(root),
        metainfo=dict(classes=CLASSES),
        data_prefix=folders,
        pipeline=pipeline,
    )
    init_default_scope('mmseg')
    return cfg


def analyzed(root: Path, samples: list[dict]):
    dump(samples, root / 'r.pkl')
    return analyze(config(root), str(root / 'r.pkl'), root / 'out', 0.3)


def test_the_scores_are_those_of_the_evaluator_and_the_mean_of_the_classes(tmp_path):
    samples = write(tmp_path)
    report = analyzed(tmp_path, samples)
    evaluator = Evaluator(config(tmp_path).test_evaluator)
    evaluator.dataset_meta = dict(classes=CLASSES)
    assert report.scores == evaluator.offline_evaluate(samples)
    rows = report.content['classes']
    ious = [row['IoU'] for row in rows]
    assert 0 < ious[1] < ious[0] < 1 and ious[2] == 0 and ious[3] is None  # sea is predicted on ignored pixels alone
    assert report.scores['mIoU'] == pytest.approx(100 * np.mean(ious[:3]), abs=5e-3)  # mmseg rounds it
    accuracies = [row['accuracy'] for row in rows]
    assert accuracies[2:] == [None, None]
    assert report.scores['mAcc'] == pytest.approx(100 * np.mean(accuracies[:2]), abs=5e-3)
    assert sum(row['pixel_share'] for row in rows) == pytest.approx(1)
    largest = report.content['confusion']['largest'][0]
    assert (largest['truth'], largest['prediction'], largest['count']) == ('thing', 'sky', 4 * 300 - 10 * (1 + 2 + 3))
    # the more ground is taken for a thing, the lower the IoU
    assert [Path(entry['file']).stem for entry in report.content['worst_images']] == ['3', '2', '1', '0']
    assert 'no pixels, and none predicted: sea' in report.tables[0]
    json.dumps(report.content, allow_nan=False)
    for name in report.files:
        with Image.open(tmp_path / 'out' / name) as picture:
            assert min(picture.size) > 200 and len(picture.convert('RGB').getcolors(1 << 24)) > 10


def without_truth(samples: list) -> list:
    return [{key: value for key, value in sample.items() if key != 'gt_sem_seg'} for sample in samples]


def of_more_classes(samples: list) -> list:
    samples[1]['pred_sem_seg']['data'][0, 0, 0] = 149
    return samples


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda samples: samples[:-1], 'are those of 3 images, and the test data of .* have 4: name the config'),
        (
            lambda samples: [s | dict(img_path='x/a.jpg') for s in samples],
            'have the image x/a.jpg, which is not in the',
        ),
        (lambda samples: [dict(pred_instances={})] * 4, 'are those of a detector, and .* is a segmentor'),
        (lambda samples: [dict(a=1)] * 4, 'entry 0 has no img_path and pred_sem_seg'),
        (of_more_classes, '1.jpg has label 149, and the 4 classes of .* end at 3'),
        (without_truth, "0.jpg has no ground truth: add dict.type='LoadAnnotations'. to the test pipeline of"),
    ],
)
def test_results_of_something_else_are_refused_in_one_line(tmp_path, change, message):
    samples = change(write(tmp_path))
    with pytest.raises(UserError, match=message) as caught:
        analyzed(tmp_path, samples)
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(('label', 'dtype'), [(200, torch.uint8), (300, torch.int32)])
def test_dumped_results_hold_the_label_maps_in_few_bytes_and_no_logits(tmp_path, label, dtype):
    metric = DumpSegResults(str(tmp_path / 'r.pkl'))
    maps = {key: dict(data=torch.tensor([[[value, 3]]])) for key, value in (('pred_sem_seg', 1), ('gt_sem_seg', label))}
    metric.process({}, [maps | dict(seg_logits=dict(data=torch.zeros(4, 1, 2)), img_path='a.jpg')])
    (kept,) = metric.results
    assert set(kept) == {'pred_sem_seg', 'gt_sem_seg', 'img_path'}
    assert kept['gt_sem_seg']['data'].tolist() == [[[label, 3]]] and kept['pred_sem_seg']['data'].tolist() == [[[1, 3]]]
    assert {kept[key]['data'].dtype for key in ('pred_sem_seg', 'gt_sem_seg')} == {dtype}


def test_the_matrices_of_the_images_are_not_kept(tmp_path, monkeypatch):
    matrices, alive = [], []
    count = error_analysis.confusion_matrix

    def watched(*args) -> np.ndarray:
        alive.append(sum(reference() is not None for reference in matrices))
        matrix = count(*args)
        matrices.append(weakref.ref(matrix))
        return matrix

    monkeypatch.setattr(error_analysis, 'confusion_matrix', watched)
    analyzed(tmp_path, write(tmp_path, 6))
    assert len(alive) == 6 and max(alive) == 1
