"""The predictions of a detector from a file, checked against the test data that they are for."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch
from mmdet.datasets import CocoDataset

from backbones.errors import UserError
from mmengine_plugin.analysis.results_file import read_results


def read_samples(path: str | Path, dataset: CocoDataset, config: str) -> list[dict]:
    """Read the predictions of a detector.

    Args:
        path: The ``.pkl`` file of ``tools/test.py --out``, or a ``.json`` file in COCO's results format, such as
            ``predictions.json`` of ``tools/predict.py``.
        dataset: The test data, loaded.
        config: Name of the config, for messages.

    Returns:
        One sample for each image of the data set, as mmdet's metrics take it: ``img_id``, ``ori_shape``, and
        ``pred_instances`` with ``bboxes`` (D, 4) as corners in pixels, ``scores`` (D,), ``labels`` (D,), and perhaps
        ``masks`` as run lengths.

    Raises:
        UserError: If the file cannot be used, or if it is for other images, other classes or a segmentor.
    """
    content = read_results(path)
    if 'pred_sem_seg' in content[0]:
        raise UserError(f'results {path} are those of a segmentor, and {config} is a detector: name its own config')
    infos = {info['img_id']: info for info in map(dataset.get_data_info, range(len(dataset)))}
    if Path(path).suffix == '.json':
        samples = _from_json(path, content, dataset, infos)
    else:
        samples = content
    for number, sample in enumerate(samples):
        _check(path, number, sample, dataset, infos, config)
    ids = Counter(sample['img_id'] for sample in samples)
    missing = [id_ for id_ in infos if id_ not in ids]
    if len(samples) != len(infos) or missing:
        detail = f'; they lack image {missing[0]!r} ({infos[missing[0]]["img_path"]})' if missing else ''
        raise UserError(
            f'results {path} are those of {len(samples)} images, and the test data of {config} have {len(infos)}'
            f'{detail}: name the config and --cfg-options that tools/test.py ran with'
        )
    return samples


def _check(path: str | Path, number: int, sample: dict, dataset: CocoDataset, infos: dict, config: str) -> None:
    instances = sample.get('pred_instances')
    keys = ('bboxes', 'scores', 'labels')
    if not isinstance(instances, dict) or 'img_id' not in sample or any(key not in instances for key in keys):
        raise UserError(
            f'results {path}: entry {number} has no img_id, or no pred_instances with {", ".join(keys)}: give the '
            '.pkl file that tools/test.py --out writes for a detector'
        )
    info = infos.get(sample['img_id'])
    if info is None:
        raise UserError(
            f'results {path} have an image with the id {sample["img_id"]!r}, which {dataset.ann_file} does not have: '
            f'name the config and --cfg-options that tools/test.py ran with, rather than {config}'
        )
    size, expected = tuple(sample['ori_shape'][:2]), (info['height'], info['width'])
    if size != expected:
        raise UserError(
            f'results {path}: image {sample["img_id"]!r} is {size[0]}x{size[1]} (height x width) there, and '
            f'{expected[0]}x{expected[1]} in {dataset.ann_file}: the results are those of other images'
        )
    classes = len(dataset.metainfo['classes'])
    if len(instances['labels']) and int(max(instances['labels'])) >= classes:
        raise UserError(
            f'results {path} have label {int(max(instances["labels"]))}, and the {classes} classes of {config} end at '
            f'{classes - 1}: name the config and --cfg-options that tools/test.py ran with'
        )


def _from_json(path: str | Path, detections: list[dict], dataset: CocoDataset, infos: dict) -> list[dict]:
    """Samples of all images of the data set from a list of detections in COCO's results format."""
    labels = {name: label for label, name in enumerate(dataset.metainfo['classes'])}
    ids = defaultdict(list)
    for id_, info in infos.items():
        ids[Path(info['img_path']).name].append(id_)
    found = defaultdict(list)
    for number, detection in enumerate(detections):
        missing = [key for key in ('image_id', 'category_id', 'bbox', 'score') if key not in detection]
        if missing:
            raise UserError(
                f"results {path}: entry {number} has no {', '.join(missing)}, so it is not in COCO's results format: "
                'https://cocodataset.org/#format-results'
            )
        image, label = detection['image_id'], dataset.cat2label.get(detection['category_id'])
        if 'file_name' in detection:  # tools/predict.py numbers the images and classes that it sees from 1
            same_name = ids[Path(detection['file_name']).name]
            image = same_name[0] if len(same_name) == 1 else detection['file_name']
            label = labels.get(detection.get('category_name'))
        if image not in infos:
            raise UserError(
                f'results {path}: entry {number} is for image {image!r}, which {dataset.ann_file} does not have, or '
                'has in several folders: predict the images of this file'
            )
        if label is None:
            category = detection.get('category_name', detection['category_id'])
            raise UserError(
                f'results {path}: entry {number} has category {category!r}, which is none of the classes of the '
                f'config with {dataset.ann_file}: set metainfo=dict(classes=(...)) in its test_dataloader'
            )
        found[image].append(detection | dict(label=label))
    with_masks = all('segmentation' in detection for detection in detections)
    samples = []
    for id_, info in infos.items():
        boxes = torch.tensor([one['bbox'] for one in found[id_]], dtype=torch.float64).reshape(-1, 4)
        instances = dict(
            bboxes=torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1),
            scores=torch.tensor([one['score'] for one in found[id_]], dtype=torch.float64),
            labels=torch.tensor([one['label'] for one in found[id_]], dtype=torch.int64),
        )
        if with_masks:
            instances['masks'] = [dict(one['segmentation']) for one in found[id_]]
        samples.append(dict(img_id=id_, ori_shape=(info['height'], info['width']), pred_instances=instances))
    return samples


def arrays(sample: dict, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | list]:
    """The detections of a sample as pycocotools takes them, in the order of falling scores.

    Args:
        sample: One of :func:`read_samples`.
        kind: ``'bbox'`` or ``'segm'``.

    Returns:
        Scores (D,), labels (D,), and the boxes (D, 4) as x, y, width and height, or D masks as run lengths.
    """
    instances = sample['pred_instances']
    scores = np.asarray(instances['scores'], np.float64)
    if kind == 'segm':  # some detectors have other scores for masks
        scores = np.asarray(instances.get('mask_scores', instances['scores']), np.float64)
    order = np.argsort(-scores, kind='stable')
    labels = np.asarray(instances['labels'], np.int64)[order]
    if kind == 'segm':
        return scores[order], labels, [instances['masks'][index] for index in order]
    boxes = np.asarray(instances['bboxes'])[order].reshape(-1, 4)  # the difference in their own precision, as mmdet
    return scores[order], labels, np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]).astype(np.float64)
