"""Classes that masks do not have, masks that are ignored, a single class, and tests without masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, init_default_scope
from mmseg.evaluation import IoUMetric
from PIL import Image

from backbones import UserError
from mmengine_plugin.checks.all_data import find_problems
from mmengine_plugin.data.image_checks import Problem
from mmseg_plugin.scores.iou_metric import CheckedIoUMetric

LABELS = np.random.RandomState(0).randint(0, 2, (24, 32)).astype(np.uint8)  # of classes 0 and 1
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
TWO, THREE = ('ground', 'thing'), ('ground', 'thing', 'rare')


@pytest.fixture
def logged(monkeypatch) -> list[str]:
    """The messages that are logged."""
    messages = []
    monkeypatch.setattr(MMLogger, 'handle', lambda self, record: messages.append(record.getMessage()))
    return messages


def settings(root: Path, *masks: np.ndarray, classes: tuple[str, ...] = TWO, **changes) -> dict:
    """A FolderDataset with these masks and an image for each, which are written first."""
    for number, mask in enumerate(masks):
        for folder, picture in (('i', Image.new('RGB', (32, 24))), ('m', Image.fromarray(mask.astype(np.uint8)))):
            (root / folder).mkdir(exist_ok=True)
            picture.save(root / folder / f'{number}.png')
    init_default_scope('mmseg')
    data = dict(type='FolderDataset', data_root=str(root), metainfo=dict(classes=classes), serialize_data=False)
    return data | dict(data_prefix=dict(img_path='i', seg_map_path='m'), pipeline=PIPELINE) | changes


def problems_of(config: dict) -> list[Problem]:
    return find_problems(Config(dict(default_scope='mmseg', train_dataloader=dict(dataset=config))))


def kinds(config: dict) -> list[str]:
    return [problem.kind for problem in problems_of(config)]


@pytest.mark.parametrize(
    ('masks', 'changes'),
    [
        ([LABELS * 0, LABELS], dict()),
        ([LABELS, LABELS * 255], dict(values=(0, 1, 200), ignored_values=(255,))),
        ([np.dstack([LABELS * 200] * 3)], dict(values=((0, 0, 0), (200, 200, 200), (9, 9, 9)))),
        ([LABELS + 1], dict(reduce_zero_label=True)),
    ],
    ids=['indices', 'values', 'colours', 'reduced'],
)
def test_a_class_that_no_mask_has_is_found(tmp_path, masks, changes):
    config = settings(tmp_path, *masks, classes=THREE, **changes)
    (problem,) = problems_of(config)
    assert problem.kind == 'class that no label map has' and problem.detail == "'rare'"
    assert 'lower num_classes' in problem.fix
    (problem,) = problems_of(config | dict(test_mode=True))
    assert 'mIoU leaves it out, or counts 0' in problem.fix


def test_classes_that_all_masks_together_have_are_no_problem(tmp_path):
    assert kinds(settings(tmp_path, LABELS, LABELS * 2, classes=THREE)) == []


def test_masks_that_are_all_ignored_are_found_and_a_single_one_is_no_problem(tmp_path):
    ignored = np.full_like(LABELS, 255)
    assert kinds(settings(tmp_path, ignored, ignored)) == ['label maps without any class']
    assert kinds(settings(tmp_path, ignored, LABELS)) == []


@pytest.mark.parametrize('type_', ['FolderDataset', 'CheckedADE20KDataset'])
def test_a_single_class_is_refused_with_the_settings_for_two(tmp_path, type_):
    config = settings(tmp_path, LABELS, classes=('crack',), type=type_)
    fix = r"metainfo=dict\(classes=\('background', 'crack'\)\) in every data set, and num_classes=2 in the heads"
    with pytest.raises(UserError, match=f'has one class, so every pixel is of it: name the background, too: set {fix}'):
        DATASETS.build(config)
    assert kinds(config) == ['refused train_dataloader']
    assert len(DATASETS.build(settings(tmp_path, LABELS))) == 1


@pytest.mark.parametrize(
    ('pixels', 'classes', 'kind', 'fix'),
    [
        (
            LABELS,
            ('crack',),
            'label at or above the number of classes',
            'if 0 is the background, name the background, too',
        ),
        (LABELS * 255, ('crack',), 'masks of 0 and 255', 'values=(0, 255), or write 1 instead of 255, and name the'),
        (
            np.where(LABELS, 2, np.eye(24, 32)),
            TWO,
            'label at or above the number of classes',
            "classes=('background', 'ground', 'thing')) in every data set, and num_classes=3 in the heads; if 0 is",
        ),
    ],
)
def test_the_check_of_mmsegs_own_data_sets_advises_to_name_the_background(tmp_path, pixels, classes, kind, fix):
    config = settings(tmp_path, pixels, classes=classes, type='BaseSegDataset', img_suffix='.png')
    problem = next(problem for problem in problems_of(config) if problem.kind == kind)
    assert fix in problem.fix
    assert 'reduce_zero_label' not in problem.fix or len(classes) == 2


@pytest.mark.parametrize('folders', [dict(img_path='i'), dict(img_path='i', seg_map_path=None)], ids=str)
@pytest.mark.parametrize('type_', ['FolderDataset', 'CheckedADE20KDataset'])
def test_a_test_set_without_masks_loads_none(tmp_path, type_, folders):
    views = dict(type='TestTimeAug', transforms=[[dict(type='RandomFlip', prob=0.0)], [PIPELINE[1]], [PIPELINE[2]]])
    suffix = dict(img_suffix='.png')
    for pipeline in (PIPELINE, [PIPELINE[0], views]):
        config = settings(
            tmp_path, LABELS, type=type_, data_prefix=folders, pipeline=pipeline, test_mode=True, **suffix
        )
        if type_ == 'CheckedADE20KDataset':
            del config['metainfo']
        packed = DATASETS.build(config)[0]['data_samples']
        assert 'gt_sem_seg' not in (packed[0] if isinstance(packed, list) else packed)
    config = settings(tmp_path, LABELS, data_prefix=folders)
    with pytest.raises(UserError, match='data_prefix has no seg_map_path'):
        DATASETS.build(config)


def scores(
    kind: type[IoUMetric], truth: np.ndarray, predicted: np.ndarray, classes: tuple[str, ...], **options
) -> dict:
    metric = kind(**options)
    metric.dataset_meta = dict(classes=classes)
    for half in range(2):
        maps = [dict(data=torch.from_numpy(m[half * 12 : half * 12 + 12].astype(np.int64))) for m in (truth, predicted)]
        metric.process({}, [dict(gt_sem_seg=maps[0], pred_sem_seg=maps[1], img_path='a.png')])
    return metric.evaluate(2)


@pytest.mark.parametrize(
    ('classes', 'wrong', 'options', 'line'),
    [
        (TWO, 0, dict(), None),
        (THREE, 0, dict(), 'the means below are over 2 of 3 classes: no mask has rare.'),
        (THREE, 2, dict(), 'the means below are over 3 of 3 classes: no mask has rare.'),
        (THREE, 0, dict(nan_to_num=0), 'the means below count 0 for 1 of 3 classes: no mask has rare.'),
    ],
)
def test_the_scores_are_mmsegs_and_classes_that_no_mask_has_are_named(classes, wrong, options, line, logged):
    predicted = LABELS.copy()
    predicted[0, :5] = wrong
    options = dict(iou_metrics=['mIoU', 'mFscore']) | options
    expected = scores(IoUMetric, LABELS, predicted, classes, **options)
    logged.clear()
    assert scores(CheckedIoUMetric, LABELS, predicted, classes, **options) == expected
    assert expected['mIoU'] < 100
    said = [text for text in logged if 'the means below' in text]
    assert len(said) == bool(line) and all(line in text for text in said)


def test_long_names_and_names_of_any_script_are_printed_in_full(logged):
    classes = ('an extraordinarily long name of a class, ' * 4, '猫', 'Straße')
    scores(CheckedIoUMetric, LABELS, LABELS, classes)
    assert all(name.strip() in logged[-1] for name in classes)


def test_scores_of_masks_that_are_all_ignored_are_refused_and_those_of_one_pixel_are_not():
    truth = np.full_like(LABELS, 255)
    with pytest.raises(UserError, match='all pixels of all 2 masks are ignored .label 255.'):
        scores(CheckedIoUMetric, truth, LABELS, TWO)
    truth[0, 0] = LABELS[0, 0]
    assert scores(CheckedIoUMetric, truth, LABELS, TWO)['aAcc'] == 100


def test_an_unknown_score_is_refused_when_the_metric_is_built():
    with pytest.raises(UserError, match="iou_metrics has 'mIou' .did you mean 'mIoU'.+; known: mIoU, mDice, mFscore"):
        CheckedIoUMetric(iou_metrics=['mIou'])
    assert CheckedIoUMetric(iou_metrics='mDice').metrics == ['mDice']
