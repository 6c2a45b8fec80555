"""Small detection sets in COCO's format, drawn by the tests, and their perfect predictions."""

import json
from pathlib import Path

import numpy as np
import torch
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from pycocotools import mask as rle

from mmdet_plugin import FastCocoMetric

CLASSES = ('cat', 'dog')
SIZE = (96, 128)  # height, width
IMAGES = 4


def objects(number: int) -> dict[str, list[int]]:
    """The box [x, y, width, height] of the object of each class in an image; one is small, the other medium."""
    return dict(cat=[4 + 3 * number, 5, 30, 24], dog=[60, 20 + 5 * number, 50, 40])


def draw(root: Path) -> dict:
    """Draw images into ``root/images``, and return the annotations of two rectangles in each."""
    (root / 'images').mkdir(parents=True, exist_ok=True)
    content = dict(images=[], annotations=[], categories=[dict(id=i, name=n) for i, n in enumerate(CLASSES, start=1)])
    for number in range(IMAGES):
        pixels = np.full((*SIZE, 3), 90, np.uint8)
        content['images'].append(dict(id=number + 1, file_name=f'{number}.png', height=SIZE[0], width=SIZE[1]))
        for label, (x, y, w, h) in enumerate(objects(number).values()):
            pixels[y : y + h, x : x + w, label] = 220
            mark = dict(id=len(content['annotations']) + 1, image_id=number + 1, category_id=label + 1, iscrowd=0)
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            content['annotations'].append(mark | dict(bbox=[x, y, w, h], area=w * h, segmentation=[polygon]))
        Image.fromarray(pixels).save(root / f'images/{number}.png')
    return content


def run_lengths(box: list[int]) -> dict:
    """The run lengths of a rectangle."""
    x, y, w, h = box
    mask = np.zeros(SIZE, np.uint8, order='F')
    mask[y : y + h, x : x + w] = 1
    encoded = rle.encode(mask)
    return dict(size=list(SIZE), counts=encoded['counts'].decode())


def write(root: Path, content: object) -> Path:
    """Write an annotation file ``root/a.json``."""
    path = root / 'a.json'
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def settings(root: Path, classes: tuple[str, ...] = CLASSES, masks: bool = True, **options) -> dict:
    """The config of the data set in ``root``."""
    init_default_scope('mmdet')
    load = dict(type='LoadAnnotations', with_bbox=True, with_mask=masks)
    meta = ('img_id', 'img_path', 'ori_shape')
    pipeline = [dict(type='LoadImageFromFile'), load, dict(type='PackDetInputs', meta_keys=meta)]
    data = dict(type='CheckedCocoDataset', data_root=str(root), ann_file='a.json', data_prefix=dict(img='images/'))
    data['serialize_data'] = False  # saves the time of a garbage collection for each set
    return data | dict(metainfo=dict(classes=classes), pipeline=pipeline) | options


def build(root: Path, *args, **options):
    """The data set in ``root``."""
    return DATASETS.build(settings(root, *args, **options))


def score(root: Path, classes: tuple[str, ...] = CLASSES, found: tuple[str, ...] = CLASSES, **options) -> dict:
    """Score perfect predictions of some classes, on the images as the data set loads them."""
    dataset = build(root, classes, test_mode=True)
    metric = FastCocoMetric(ann_file=str(root / 'a.json'), metric=['bbox', 'segm'], **options)
    metric.dataset_meta = dataset.metainfo
    for sample in dataset:
        sample = sample['data_samples']
        boxes = objects(int(Path(sample.img_path).stem))
        x, y, w, h = torch.tensor([boxes[name] for name in found], dtype=torch.float).unbind(1)
        instances = dict(
            bboxes=torch.stack([x, y, x + w, y + h], 1),
            scores=torch.ones(len(found)),
            labels=torch.tensor([classes.index(name) for name in found]),
            masks=[run_lengths(boxes[name]) for name in found],
        )
        metric.process({}, [dict(img_id=sample.img_id, ori_shape=sample.ori_shape, pred_instances=instances)])
    return metric.evaluate(len(dataset))


def predict(dataset, content: dict, process) -> None:
    """Give the objects of ``content`` to a metric or an evaluator as its predictions with score 1."""
    ids = {image['file_name']: image['id'] for image in content['images']}
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        marks = [a for a in content['annotations'] if a['image_id'] == ids[Path(info['img_path']).name]]
        x, y, w, h = torch.tensor([mark['bbox'] for mark in marks], dtype=torch.float).reshape(-1, 4).unbind(1)
        found = dict(
            bboxes=torch.stack([x, y, x + w, y + h], 1),
            scores=torch.ones(len(marks)),
            labels=torch.tensor([mark['category_id'] - 1 for mark in marks], dtype=torch.long),
            masks=[run_lengths(mark['bbox']) for mark in marks],
        )
        size = (info['height'], info['width'])
        process([dict(img_id=info['img_id'], ori_shape=size, instances=info['instances'], pred_instances=found)])


def perfect_scores(root: Path, content: dict, classes: tuple[str, ...] = CLASSES, data=None, **options) -> dict:
    """The scores of the objects of ``content`` on the set in ``root``."""
    dataset = build(root, classes, test_mode=True, **(data or {}))
    metric = FastCocoMetric(ann_file=str(root / 'a.json'), **options)
    metric.dataset_meta = dataset.metainfo
    predict(dataset, content, lambda samples: metric.process({}, samples))
    return metric.evaluate(len(dataset))
