"""Writes mended copies of annotation files."""

import json
from collections.abc import Mapping, Sequence
from os import path as osp
from pathlib import Path
from typing import Any

from mmdet.datasets import CocoDataset
from mmengine.config import Config

from backbones.errors import UserError
from mmengine_plugin.atomic_files import atomic_file

from .annotation_file import AnnotationFile
from .check_dataset import TOLERANCE, read_completed
from .class_checks import crowd_only, has_single_objects
from .file_checks import object_key, wrong_area
from .image_files import has_size
from .masks import are_numbers, area_of, box_of


def write_mended(datasets: Sequence[CocoDataset], folder: str | Path) -> dict[str, str]:
    """Write a mended copy of each annotation file that can be mended, and print what was changed.

    Missing fields, ids, paths, areas, empty boxes, boxes beyond their image, repeated annotations and classes with
    crowds only are mended.
    What cannot be known, such as the name of an unknown category, stays as it is.

    Args:
        datasets: Data sets that were built with ``lazy_init=True``.
        folder: Folder for the copies.

    Returns:
        The absolute paths of the copies by the paths of the files.

    Raises:
        UserError: If a copy would overwrite a file.
    """
    mended, copies = {}, {}
    for dataset in datasets:
        if dataset.ann_file not in mended:
            mended[dataset.ann_file] = mend(dataset)
    changed = {path: file for path, file in mended.items() if file.changes}
    names = [Path(path).name for path in changed]
    for path in changed:
        name = Path(path).name
        if names.count(name) > 1:  # train/a.json and val/a.json
            name = f'{Path(path).absolute().parent.name}_{name}'
        copy = Path(folder, name).absolute()
        if copy.exists() or str(copy) in copies.values():
            raise UserError(f'--fix: {copy} exists already: name a new folder')
        copies[path] = str(copy)
    for path, file in changed.items():
        whole = file.content | {key: [*file.content[key], *entries] for key, entries in file.unusable.items()}
        with atomic_file(copies[path]) as temporary:
            temporary.write_text(json.dumps(whole))
        print(f'mended copy of {path}: {copies[path]}: {file.described_changes()}')
    for path in mended.keys() - changed.keys():
        print(f'--fix has nothing to mend in {path}')
    return copies


def print_settings(cfg: Config, copies: Mapping[str, str]) -> None:
    """Print the settings of a config that use the mended copies.

    Args:
        cfg: The config.
        copies: The absolute paths of the copies by the paths of the files, as :func:`write_mended` returns them.
    """
    settings = []
    for split in ('train', 'val', 'test'):
        dataset, metric = cfg.get(f'{split}_dataloader', {}).get('dataset', {}), cfg.get(f'{split}_evaluator')
        path = dataset.get('ann_file', '')
        if not osp.isabs(path) and dataset.get('data_root'):
            path = osp.join(dataset.data_root, path)
        if path in copies:
            settings.append(f'{split}_dataloader = dict(dataset=dict(ann_file={copies[path]!r}))')
        if isinstance(metric, Mapping):
            for path, copy in copies.items():
                if osp.realpath(path) == osp.realpath(metric.get('ann_file') or ''):
                    settings.append(f'{split}_evaluator = dict(ann_file={copy!r})')
    if settings:
        print('\n'.join(['to use the mended copies, write into the config:', *settings]))


def mend(dataset: CocoDataset) -> AnnotationFile:
    """Read the annotation file of a data set, and mend what can be mended.

    Args:
        dataset: The data set, built with ``lazy_init=True``.

    Returns:
        The mended content; its ``changes`` say what was mended.
    """
    file, _ = read_completed(dataset)
    if not file.content:
        return file
    annotations = file.content['annotations']
    crowds, classes = {}, dataset.metainfo['classes']
    if not dataset.test_mode or not has_single_objects(file.content, classes):
        crowds = crowd_only(file.content, classes)
    for annotation in annotations:
        if annotation['category_id'] in crowds:
            annotation['iscrowd'] = 0
            file.changes['iscrowd=0 written, since all annotations of the class were crowds'] += 1
    images = {image['id']: image for image in file.content['images'] if has_size(image)}
    if not _are_corners(annotations, images):
        for annotation in annotations:
            if annotation['image_id'] in images:
                _mend_box(file, annotation, images[annotation['image_id']])
    kept = [annotation for annotation in annotations if min(annotation['bbox'][2:]) > 0]
    if len(kept) < len(annotations):
        file.changes['annotation with an empty box removed'] += len(annotations) - len(kept)
        file.content['annotations'] = kept
    first = {object_key(annotation): annotation for annotation in reversed(kept)}
    if len(first) < len(kept):
        file.changes['repeated annotation removed'] += len(kept) - len(first)
        kept = [annotation for annotation in kept if first[object_key(annotation)] is annotation]
        file.content['annotations'] = kept
    for annotation in kept:
        if not are_numbers([annotation['area']]) or annotation['area'] <= 0 or wrong_area(annotation):
            annotation['area'] = _area(annotation)
            file.changes['area corrected'] += 1
    return file


def _are_corners(annotations: Sequence[Mapping[str, Any]], images: Mapping[int | str, Mapping[str, Any]]) -> bool:
    """Whether all boxes look like [x1, y1, x2, y2]; it is then wrong to clip them as [x, y, width, height]."""
    for annotation in annotations:
        image, (x, y, right, bottom) = images.get(annotation['image_id']), annotation['bbox']
        if image and not (x < right <= image['width'] + TOLERANCE and y < bottom <= image['height'] + TOLERANCE):
            return False
    return True


def _mend_box(file: AnnotationFile, annotation: dict[str, Any], image: Mapping[str, Any]) -> None:
    """Replace an empty box, or a box beyond its image, by the box of the mask; without a mask, clip it to the image."""
    box = annotation['bbox']
    if min(box[2:]) > 0 and (max(box) <= 1 or not _is_beyond(box, image)):
        return
    of_mask = box_of(annotation.get('segmentation'))
    if of_mask:
        if not _is_beyond(of_mask, image):  # otherwise the size of the image may be wrong
            annotation['bbox'] = of_mask
            file.changes['box replaced by that of the mask'] += 1
    elif min(box[2:]) > 0:
        left, top = max(box[0], 0), max(box[1], 0)
        right, bottom = min(box[0] + box[2], image['width']), min(box[1] + box[3], image['height'])
        annotation['bbox'] = [left, top, max(right - left, 0), max(bottom - top, 0)]
        annotation['area'] = annotation['bbox'][2] * annotation['bbox'][3]
        file.changes['box clipped to its image'] += 1


def _is_beyond(box: Sequence[float], image: Mapping[str, Any]) -> bool:
    x, y, w, h = box
    return max(-x, -y, x + w - image['width'], y + h - image['height']) > TOLERANCE


def _area(annotation: Mapping[str, Any]) -> float:
    """The area of the mask, or that of the box if there is no mask."""
    return area_of(annotation.get('segmentation')) or annotation['bbox'][2] * annotation['bbox'][3]
