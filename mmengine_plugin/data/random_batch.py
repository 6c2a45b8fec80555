"""Batches of noise with random labels, for measurements that need a training step but no data."""

from __future__ import annotations

import numpy as np
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData

OBJECTS = 10  # in each image of a detector
IGNORED = 255  # the label of pixels that count in no loss


def random_batch(task: str, images: int, height: int, width: int, classes: int) -> dict:
    """A batch of noise, with random objects or labels, as data loaders return it.

    Args:
        task: ``'detection'`` for samples of mmdet, ``'segmentation'`` for those of mmseg.
        images: Number of images.
        height: Height in pixels.
        width: Width in pixels.
        classes: Number of classes; the labels are below it.

    Returns:
        ``inputs``, images ``(3, height, width)`` of type uint8, and ``data_samples``. The result is the same each time.
    """
    random = np.random.default_rng(0)
    inputs = [torch.from_numpy(random.integers(0, 256, (3, height, width), dtype=np.uint8)) for _ in range(images)]
    make_sample = detection_sample if task == 'detection' else segmentation_sample
    samples = []
    for number in range(images):
        sample = make_sample(random, height, width, classes)
        shapes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), (height, width))
        sample.set_metainfo(dict(shapes, scale_factor=(1.0, 1.0), img_id=number))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def detection_sample(random: np.random.Generator, height: int, width: int, classes: int) -> BaseDataElement:
    """The ground truth of an image: 10 random boxes, filled as masks, with random labels.

    Its semantic map, which panoptic models ask for, leaves out all pixels.
    """
    from mmdet.structures import DetDataSample  # after mmengine_plugin, which provides mmcv's compiled operators
    from mmdet.structures.mask import BitmapMasks

    corners = random.uniform(0, 0.7, (OBJECTS, 2)) * (width, height)
    sizes = random.uniform(0.05, 0.3, (OBJECTS, 2)) * (width, height)
    boxes = np.concatenate((corners, corners + sizes), axis=1)
    masks = np.zeros((OBJECTS, height, width), np.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
        mask[y1 : y2 + 1, x1 : x2 + 1] = 1
    truth = InstanceData(
        bboxes=torch.tensor(boxes).float(),
        labels=torch.from_numpy(random.integers(0, classes, OBJECTS)),
        masks=BitmapMasks(masks, height, width),
    )
    semantic = PixelData(sem_seg=torch.full((1, height, width), IGNORED))
    return DetDataSample(
        gt_instances=truth, ignored_instances=InstanceData(bboxes=torch.zeros(0, 4)), gt_sem_seg=semantic
    )


def segmentation_sample(random: np.random.Generator, height: int, width: int, classes: int) -> BaseDataElement:
    """The ground truth of an image: squares of 32 x 32 pixels, each with a random label."""
    from mmseg.structures import SegDataSample  # after mmengine_plugin, which provides mmcv's compiled operators

    squares = random.integers(0, classes, (1, -(-height // 32), -(-width // 32))).repeat(32, 1).repeat(32, 2)
    return SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(squares[:, :height, :width])))
