"""Detectors of mmdet that are trained in unusual ways and killed end as uninterrupted ones, to the last bit.

The recipes are mmdet's own, with small models, small images and six steps.
"""

import copy
import json
import re
import shutil
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import cv2
import mmdet
import pytest
import torch
from mmengine.config import Config

from mmengine_plugin.engine.checkpoint_files import last_checkpoint
from mmengine_plugin.engine.compare_runs import differences, end_state
from tests.mmengine_plugin.engine.runs import train_in_a_process
from tests.mmengine_plugin.engine.small_recipes import LOOPS, MASK_RCNN, merge, recipe

UPSTREAM = Path(mmdet.__file__).parent / '.mim/configs'
MAMBAOUT = dict(_delete_=True, type='MambaOut', arch=dict(depths=(1, 1, 1, 1), dims=(4, 8, 8, 8)), drop_path_rate=0.2)
SIZES = dict(img_scale=(64, 64), border=(-32, -32), scale=(64, 64))
SCALES = [(80, 48), (80, 64)]  # of RandomResize, which takes one between them
LABELLED, UNLABELLED = (0, 1, 2, 3), (4, 5, 6, 7)  # indices of images


def small(value: object) -> object:
    """Replace the sizes of images in a pipeline by small ones."""
    if isinstance(value, list):
        return [small(part) for part in value]
    if not isinstance(value, dict):
        return value
    made = {key: SIZES[key] if key in SIZES else small(part) for key, part in value.items()}
    if made.get('type') == 'RandomResize':
        made['scale'] = SCALES
    return made


def with_loop(loop: str) -> Config:
    """The recipe of ``configs/mini`` for bounding boxes alone, with six steps."""
    cfg = copy.deepcopy(recipe('detection'))
    merge(cfg, LOOPS[loop])
    cfg.val_evaluator.metric = 'bbox'
    cfg.default_hooks.checkpoint.interval = 1
    cfg.train_dataloader.dataset.indices = None
    return cfg


def soft_teacher(sampler: str) -> Config:
    """A student learns from labelled images, and from what its teacher, an average of it, finds in others."""
    cfg, stock = with_loop('iterations'), Config.fromfile(next(UPSTREAM.glob('soft_teacher/*semi-0.1-coco.py')))
    rcnn = {key.replace('model.', 'model.detector.'): value for key, value in MASK_RCNN.items() if 'mask' not in key}
    rcnn['model.detector.roi_head.bbox_head.num_classes'] = len(cfg.classes)
    merge(stock, rcnn | {'model.detector.backbone': MAMBAOUT})
    # a model that has learnt nothing is sure of nothing
    thresholds = dict(pseudo_label_initial_score_thr=0.1, rpn_pseudo_thr=0.1, cls_pseudo_thr=0.1, reg_pseudo_thr=10.0)
    stock.model.semi_train_cfg.update(thresholds)
    cfg.model = stock.model
    parts = []
    for images, pipeline in ((LABELLED, stock.sup_pipeline), (UNLABELLED, stock.unsup_pipeline)):
        part = cfg.train_dataloader.dataset | dict(indices=images, pipeline=small(pipeline))
        parts.append(part | dict(filter_cfg=dict(filter_empty_gt=False)))
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=parts)
    cfg.train_dataloader.sampler = dict(type=sampler, batch_size=2, source_ratio=[1, 1])
    cfg.train_dataloader.batch_sampler = None
    cfg.val_cfg = stock.val_cfg
    cfg.default_hooks.checkpoint.save_best = None
    cfg.custom_hooks.append(dict(type='MeanTeacherHook', momentum=0.1))
    return cfg


def yolox(workers: int = 0, batch_augments: Sequence[dict] = ()) -> Config:
    """Samples of up to eight images, and in the last two of three epochs of one; the weights are averaged."""
    cfg, stock = with_loop('epochs'), Config.fromfile(UPSTREAM / 'yolox/yolox_s_8xb8-300e_coco.py')
    head = dict(num_classes=len(cfg.classes), in_channels=8, feat_channels=8)
    merge(
        stock,
        {
            'model.backbone.widen_factor': 1 / 32,
            'model.neck': dict(in_channels=[8, 16, 32], out_channels=8),
            'model.bbox_head': head,
            'model.data_preprocessor.batch_augments': list(batch_augments),
            'train_cfg': dict(type='ResumableEpochLoop', max_epochs=3, val_interval=3),
        },
    )
    cfg.model, cfg.train_cfg = stock.model, stock.train_cfg
    part = cfg.train_dataloader.dataset | dict(pipeline=stock.train_dataset.dataset.pipeline)
    cfg.train_dataloader.dataset = dict(
        type='MultiImageMixDataset', dataset=part, pipeline=small(stock.train_dataset.pipeline)
    )
    cfg.train_dataloader.update(num_workers=workers, persistent_workers=workers > 0)
    cfg.train_dataloader.batch_size = 4
    cfg.train_dataloader.batch_sampler = None
    cfg.val_dataloader.dataset.pipeline = small(stock.test_pipeline)
    cfg.param_scheduler = [
        dict(type='QuadraticWarmupLR', by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', by_epoch=True, begin=1, end=2, T_max=2, convert_to_iter_based=True),
        dict(type='ConstantLR', by_epoch=True, factor=1, begin=2, end=3),
    ]
    cfg.custom_hooks.extend(stock.custom_hooks)
    for hook in cfg.custom_hooks:
        if hook.type == 'YOLOXModeSwitchHook':
            hook.num_last_epochs = 1
        if hook.type == 'EMAHook':
            hook.update(momentum=0.1, gamma=2)
    return cfg


def retinanet() -> Config:
    """Images are drawn by their classes, and those of a batch are all wide or all high."""
    cfg, stock = with_loop('iterations'), Config.fromfile(UPSTREAM / '_base_/models/retinanet_r50_fpn.py')
    merge(
        stock,
        {
            'model.backbone': MAMBAOUT,
            'model.neck': dict(in_channels=[4, 8, 8, 8], out_channels=8),
            'model.bbox_head': dict(num_classes=len(cfg.classes), in_channels=8, feat_channels=8, stacked_convs=1),
        },
    )
    cfg.model = stock.model
    cfg.train_dataloader.dataset.pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadAnnotations', with_bbox=True),
        dict(type='RandomResize', scale=SCALES, keep_ratio=True),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs'),
    ]
    cfg.train_dataloader.sampler = dict(type='ClassAwareSampler')
    return cfg


@pytest.fixture(scope='module')
def data(mini_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The mini data with every second training image, and its boxes, mirrored at the diagonal."""
    root = tmp_path_factory.mktemp('mirrored')
    coco = shutil.copytree(mini_data / 'data/mini/coco', root / 'data/mini/coco')
    file = coco / 'annotations/instances_train2017.json'
    content = json.loads(file.read_text())
    mirrored = set()
    for image in content['images'][::2]:
        path = str(coco / 'train2017' / image['file_name'])
        pixels = cv2.imread(path).transpose(1, 0, 2)
        cv2.imwrite(path, pixels)
        image['height'], image['width'] = pixels.shape[:2]
        mirrored.add(image['id'])
    for mark in content['annotations']:
        del mark['segmentation']
        if mark['image_id'] in mirrored:
            x, y, width, height = mark['bbox']
            mark['bbox'] = [y, x, height, width]
    file.write_text(json.dumps(content))
    return root


def run(work_dir: Path, cfg: Config, code: int = 0, **changes) -> str:
    """Train in a process of its own; return its output."""
    cfg = copy.deepcopy(cfg)
    cfg.work_dir = str(work_dir)
    cfg.update(changes)
    exit_code, output = train_in_a_process(work_dir.parent / f'{work_dir.name}.log', cfg)
    assert exit_code == code, output
    return output


def check(tmp_path: Path, cfg: Config, iteration: int, weight: str) -> None:
    """Compare an uninterrupted run with one that is killed and resumed, and with one that has lost a bit meanwhile.

    Args:
        tmp_path: Folder of the runs.
        cfg: Config of the runs.
        iteration: Number of the iterations before the kill.
        weight: Name of a tensor in the checkpoint; a bit of its first number is flipped in the control.
    """
    run(tmp_path / 'whole', cfg)
    whole = end_state(tmp_path / 'whole')
    kill = dict(type='Send', number=signal.SIGKILL, moment='after_train_iter', iteration=iteration)
    run(tmp_path / 'run', cfg, code=-signal.SIGKILL, custom_hooks=[*cfg.custom_hooks, kill])
    checkpoint = last_checkpoint(tmp_path / 'run')
    assert checkpoint.name == f'iter_{iteration}.pth'
    shutil.copytree(tmp_path / 'run', tmp_path / 'control')
    output = run(tmp_path / 'run', cfg, resume=True)
    assert f'iter: {iteration}' in output, output
    assert differences(whole, end_state(tmp_path / 'run')) == []

    content = torch.load(tmp_path / 'control' / checkpoint.name, weights_only=False)
    part, _, name = weight.partition('.')
    content[part][name].view(torch.int32).view(-1)[0] ^= 1 << 20
    torch.save(content, tmp_path / 'control' / checkpoint.name)
    run(tmp_path / 'control', cfg, resume=True)
    assert any(name.startswith('state_dict') for name in differences(whole, end_state(tmp_path / 'control')))


CONVOLUTION = 'bbox_head.multi_level_conv_obj.0.weight'
CASES = [
    pytest.param(
        partial(soft_teacher, 'MultiSourceSampler'),
        3,
        'state_dict.teacher.roi_head.bbox_head.fc_cls.weight',
        id='soft teacher, a bit of the teacher',
    ),
    pytest.param(
        partial(soft_teacher, 'GroupMultiSourceSampler'),
        3,
        'state_dict.student.roi_head.bbox_head.fc_cls.weight',
        id='soft teacher with a random shape in each batch, a bit of the student',
    ),
    pytest.param(retinanet, 3, 'state_dict.bbox_head.retina_cls.weight', id='retinanet'),
    pytest.param(yolox, 1, f'state_dict.{CONVOLUTION}', id='yolox before the switch, a bit of the average'),
    pytest.param(yolox, 3, f'ema_state_dict.module.{CONVOLUTION}', id='yolox after the switch, a bit of the weights'),
    pytest.param(
        partial(yolox, workers=1), 1, f'ema_state_dict.module.{CONVOLUTION}', id='yolox before the switch, a worker'
    ),
    pytest.param(
        partial(yolox, batch_augments=[dict(type='BatchSyncRandomResize', random_size_range=(32, 96), interval=2)]),
        3,
        f'state_dict.{CONVOLUTION}',
        id='yolox between two changes of the size',
    ),
]


@pytest.mark.parametrize(('made', 'iteration', 'weight'), CASES)
def test_a_detector_that_is_killed_ends_as_an_uninterrupted_one(made, iteration, weight, data, monkeypatch, tmp_path):
    monkeypatch.chdir(data)
    check(tmp_path, made(), iteration, weight)


def test_gradients_that_are_not_finite_are_reported_with_the_images_of_all_branches(data, monkeypatch, tmp_path):
    monkeypatch.chdir(data)
    cfg = soft_teacher('MultiSourceSampler')
    cfg.model.semi_train_cfg.sup_weight = 1e39  # infinity in fp32
    output = run(tmp_path / 'run', cfg, code=1)
    error = output.splitlines()[-1]
    found = re.search('UserError: the gradients of iteration 1 are not finite.* its images are (.*?)[.] The', error)
    assert found, output
    images = {int(Path(path).stem) - 1 for path in found[1].split(', ')}
    assert len(images & {*LABELLED}) == len(images & {*UNLABELLED}) == 1 and len(images) == 2, error


def test_the_best_checkpoint_of_a_teacher_and_a_student(data, monkeypatch, tmp_path):
    monkeypatch.chdir(data)
    cfg = soft_teacher('MultiSourceSampler')
    cfg.default_hooks.checkpoint.save_best = 'teacher/coco/bbox_mAP'
    run(tmp_path / 'run', cfg)
    assert (tmp_path / 'run/best_teacher_coco_bbox_mAP_iter_6.pth').is_file()
