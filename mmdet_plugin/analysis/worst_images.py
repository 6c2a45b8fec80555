"""A sheet of the images with most errors: ground truth left, prediction right."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData
from PIL import Image
from pycocotools import mask as rle

from mmengine_plugin.analysis.figures import tile_size, with_caption
from mmengine_plugin.data.image_loaders import loader_of
from mmengine_plugin.inference.drawing import draw_sheet
from mmengine_plugin.inference.images import read_image, rgb_picture


def draw_worst_images(
    worst: list[dict],
    samples: list[dict],
    truth: COCO,
    dataset: CocoDataset,
    score_thr: float,
    path: str | Path,
    number: int = 8,
) -> None:
    """Draw the first images of a ranking on a sheet.

    Args:
        worst: Entries of :func:`~mmdet_plugin.analysis.error_analysis.rank_images`.
        samples: Predictions of all images.
        truth: Annotations.
        dataset: The test data.
        score_thr: Detections with a lower score are not drawn.
        path: PNG file to write.
        number: Number of images.
    """
    visualizer = DetLocalVisualizer(alpha=0.4)
    visualizer.dataset_meta, loader = dataset.metainfo, loader_of(dataset)
    with tempfile.TemporaryDirectory() as folder:
        pictures = []
        for place, entry in enumerate(worst[:number]):
            image = np.asarray(rgb_picture(read_image(entry['file'], loader), loader))
            sample = DetDataSample(
                gt_instances=_annotated(truth.imgToAnns[entry['id']], truth, dataset, image.shape[:2]),
                pred_instances=_predicted(samples[entry['index']]['pred_instances'], score_thr),
            )
            for instances in (sample.gt_instances, sample.pred_instances):  # a box beyond the image would shrink it
                instances.bboxes[:, 0::2] = instances.bboxes[:, 0::2].clamp(0, image.shape[1])
                instances.bboxes[:, 1::2] = instances.bboxes[:, 1::2].clamp(0, image.shape[0])
            visualizer.add_datasample('', image, sample, pred_score_thr=-1, out_file=f'{folder}/{place}.png')
            counts = [(entry['missed'], 'missed'), (entry['false'], 'false'), (entry['confused'], 'confused')]
            text = ', '.join(f'{count} {what}' for count, what in counts if count)
            pictures.append(Path(folder, f'{place}_with_caption.png'))
            with Image.open(f'{folder}/{place}.png') as picture:
                with_caption(_with_gap(picture), f'{Path(entry["file"]).name}: {text}').save(pictures[-1])
        draw_sheet(pictures, path, size=tile_size(pictures))


def _with_gap(picture: Image.Image, gap: int = 6) -> Image.Image:
    """Put a white gap of so many pixels between the two halves of a picture."""
    middle = picture.width // 2
    sheet = Image.new('RGB', (picture.width + gap, picture.height), 'white')
    sheet.paste(picture.crop((0, 0, middle, picture.height)))
    sheet.paste(picture.crop((middle, 0, picture.width, picture.height)), (middle + gap, 0))
    return sheet


def _annotated(marks: list[dict], truth: COCO, dataset: CocoDataset, size: tuple[int, int]) -> InstanceData:
    marks = [mark for mark in marks if mark['category_id'] in dataset.cat2label]
    boxes = torch.tensor([mark['bbox'] for mark in marks], dtype=torch.float32).reshape(-1, 4)
    instances = InstanceData(
        bboxes=torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
        labels=torch.tensor([dataset.cat2label[mark['category_id']] for mark in marks], dtype=torch.int64),
    )
    if marks and all(mark.get('segmentation') for mark in marks):
        instances.masks = BitmapMasks([truth.annToMask(mark) for mark in marks], *size)
    return instances


def _predicted(found: dict, score_thr: float) -> InstanceData:
    scores = torch.as_tensor(found['scores'])
    kept = torch.nonzero(scores >= score_thr).flatten()
    instances = InstanceData(
        bboxes=torch.as_tensor(found['bboxes'])[kept].float(),
        labels=torch.as_tensor(found['labels'])[kept],
        scores=scores[kept],
    )
    if 'masks' in found and len(kept):
        masks = [rle.decode(_with_bytes(found['masks'][index])) for index in kept]
        instances.masks = torch.from_numpy(np.stack(masks).astype(bool))
    return instances


def _with_bytes(mask: dict) -> dict:
    counts = mask['counts']
    return mask | dict(counts=counts.encode() if isinstance(counts, str) else counts)
