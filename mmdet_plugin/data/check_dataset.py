"""Find all problems of data sets in COCO's format. Training stops at the first one, or leaves out objects silently."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from os import path as osp
from pathlib import Path
from typing import Any

from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations
from mmengine import fileio
from tqdm import tqdm

from backbones.errors import UserError
from mmengine_plugin.data.image_checks import Problem, check_all, check_image, transform_of
from mmengine_plugin.data.narrow_images import narrow_problem

from .annotation_file import AnnotationFile
from .annotation_reader import read_annotations, without_root
from .class_checks import (
    add_empty_categories,
    class_problems,
    crowd_problems,
    has_single_objects,
    left_out,
    unused_classes,
)
from .completion import EXPORT
from .file_checks import file_problems, wrong_area
from .image_files import has_size, locate_images, read_sizes
from .mask_checks import describe, mask_problems
from .masks import are_numbers, box_of, has_mask, is_polygon, is_run_lengths
from .usable_objects import left_out_images

TOLERANCE = 2  # pixels by which a box may exceed its image, because of rounding and of tools that count pixels from 1

Finding = tuple[str, str, str]  # kind, detail and fix of a problem of one annotation


def check(datasets: Sequence[CocoDataset]) -> list[Problem]:
    """Find all problems of annotation files and images, and print what training fills in or leaves out.

    Args:
        datasets: Data sets that were built with ``lazy_init=True``, so that none has refused anything yet.

    Returns:
        The problems, in the order of the data sets.

    Raises:
        UserError: If one of the data sets is not in COCO's format.
    """
    for dataset in datasets:
        if not isinstance(dataset, CocoDataset):
            raise UserError(f'cannot check {type(dataset).__name__}: it is not a CocoDataset of mmdet')
    notes: list[str] = []
    problems = [problem for dataset in datasets for problem in _check_dataset(dataset, notes)]
    for note in dict.fromkeys(notes):
        print(note)
    return problems


def _check_dataset(dataset: CocoDataset, notes: list[str]) -> Iterator[Problem]:
    """Find the problems of a data set, and add what training fills in or leaves out to the notes."""
    file, missing = read_completed(dataset)
    yield from file.problems
    yield from file.doubts
    for path in (dataset.ann_file, dataset.data_prefix['img']):
        if found := without_root(path, dataset.data_root):
            notes.append(f'{path} is not there: {found}')
    content, classes = file.content, dataset.metainfo['classes']
    if not content:
        return
    if getattr(dataset, 'may_lack_classes', False):
        add_empty_categories(content, classes)
    names = [category['name'] for category in content['categories']]
    yield from class_problems(file.path, classes, names)
    if not content['images']:
        yield Problem(file.path, 'nothing to train on', 'it has no complete images', EXPORT)
    elif not content['annotations'] and not dataset.test_mode:
        yield Problem(file.path, 'nothing to train on', 'it has no complete annotations', EXPORT)
    if not dataset.test_mode or not has_single_objects(content, classes):  # a small set for tests may have such a class
        yield from crowd_problems(file.path, content, classes)
    yield from _repeated_names(file)
    if file.changes:
        notes.append(f'{file.path}: training completes it: {file.described_changes()}')
    if unnamed := left_out(content, classes):
        counts = ', '.join(f'{name} ({count})' for name, count in unnamed.items())
        notes.append(f'{file.path}: metainfo.classes leaves out the annotations of {counts}')
    notes += unused_classes(file.path, content, classes)
    if not dataset.test_mode:
        notes += left_out_images(file.path, content, classes, dataset.filter_cfg)
    yield from _check_annotations(dataset, file)
    yield from file_problems(file.path, content)
    folder = dataset.data_prefix['img']
    if not fileio.isdir(folder, backend_args=dataset.backend_args):
        yield Problem(
            folder,
            'missing image folder',
            f'it is not there, seen from {Path.cwd()}',
            'put or link it there, or set data_root and data_prefix in the data loaders of the config',
        )
        return
    yield from missing
    lost = {problem.file for problem in missing}
    images = [image for image in content['images'] if osp.join(folder, image['file_name']) not in lost]
    check_one = partial(_check_image, dataset, folder, transform_of(dataset, LoadImageFromFile))
    for problems in check_all(check_one, images, folder):
        yield from problems


def read_completed(dataset: CocoDataset) -> tuple[AnnotationFile, list[Problem]]:
    """Read the annotation file of a data set, and complete it from the images.

    Args:
        dataset: The data set, built with ``lazy_init=True``.

    Returns:
        The file, and a problem for each image that is not there.
    """
    file = read_annotations(dataset.ann_file, dataset.backend_args)
    folder, missing = dataset.data_prefix['img'], []
    if file.content and fileio.isdir(folder, backend_args=dataset.backend_args):
        if dataset.backend_args is None:
            missing = locate_images(file, folder)
        read_sizes(file, folder, transform_of(dataset, LoadImageFromFile), dataset.backend_args)
    return file, missing


def _repeated_names(file: AnnotationFile) -> Iterator[Problem]:
    ids = defaultdict(list)
    for image in file.content['images']:
        ids[image['file_name']].append(str(image['id']))
    for name, numbers in ids.items():
        if len(set(numbers)) > 1:
            yield Problem(
                file.path,
                'file name of several images',
                f'{name} is the file of the images with the ids {", ".join(numbers[:10])}',
                'name the right file of each image, or give all annotations of a file one image_id: training takes the '
                'objects of the other entries for background',
            )


def _check_image(dataset: CocoDataset, folder: str, loader: LoadImageFromFile, image: dict[str, Any]) -> list[Problem]:
    path, size = osp.join(folder, image['file_name']), (image['height'], image['width']) if has_size(image) else None
    problems = list(check_image(path, loader, size, 'the annotation file says'))
    narrow = narrow_problem(path, size, dataset.pipeline.transforms) if size and not problems else None
    return [*problems, narrow] if narrow else problems


def _check_annotations(dataset: CocoDataset, file: AnnotationFile) -> Iterator[Problem]:
    images = {image['id']: image for image in file.content['images']}
    names = {id_: image['file_name'] for id_, image in images.items()}
    with_masks = transform_of(dataset, LoadAnnotations).with_mask
    if with_masks:
        yield from mask_problems(file.path, file.content, dataset.metainfo['classes'])
    for annotation in tqdm(file.content['annotations'], file.path, mininterval=1):
        image = images.get(annotation['image_id'])
        if image is not None and not has_size(image):
            continue  # the image cannot be read, which is a problem of its own
        for kind, detail, fix in _check_annotation(annotation, image, with_masks):
            yield Problem(file.path, kind, f'{describe(annotation, names)}: {detail}', fix)


def _check_annotation(annotation: dict[str, Any], image: dict[str, Any] | None, with_masks: bool) -> Iterator[Finding]:
    if image is None:
        yield 'annotation of an unknown image', f'no image has the id {annotation["image_id"]}', EXPORT
    findings = list(_check_box(annotation['bbox'], image))
    area = annotation['area']
    if not are_numbers([area]) or area <= 0:
        findings.append(
            (
                'object without area',
                f'area is {area}, and training leaves the object out',
                "write the number of the object's pixels, or the area of its box",
            )
        )
    if with_masks and image and has_mask(annotation.get('segmentation')):
        size = [image['height'], image['width']]
        is_crowd = annotation['iscrowd'] and 'ignore' not in annotation  # an ignored object may have polygons
        findings += _check_mask(annotation['segmentation'], annotation['bbox'], is_crowd, size)
    yield from findings
    if not findings and (detail := wrong_area(annotation)):
        yield (
            'area that does not fit its object',
            detail,
            'leave out area, which is then computed, or run python tools/check_dataset.py CONFIG --fix FOLDER',
        )


def _check_box(box: list[float], image: dict[str, Any] | None) -> Iterator[Finding]:
    x, y, w, h = box
    if w <= 0 or h <= 0:
        yield (
            'empty box',
            f'bbox is {box}, and training leaves the object out',
            'remove the annotation, or write [x, y, width, height] in pixels',
        )
    elif max(box) <= 1:
        yield (
            'box in fractions of the image size',
            f'bbox is {box}, and training leaves out boxes that are narrower than a pixel',
            'multiply x and width by the width of the image, y and height by its height',
        )
    elif w < 1 or h < 1:
        yield (
            'box that is narrower than a pixel',
            f'bbox is {box}, and training leaves the object out',
            'draw the box at least a pixel wide and high, or remove the annotation',
        )
    elif image and max(-x, -y, x + w - image['width'], y + h - image['height']) > TOLERANCE:
        yield (
            'box outside its image',
            f'bbox is {box}, and the image has {image["width"]}x{image["height"]} pixels',
            'write [x, y, width, height] rather than two corners, in the pixels of this image',
        )


def _check_mask(mask: list | dict[str, Any], box: list[float], is_crowd: bool, size: list[int]) -> Iterator[Finding]:
    """The problems of polygons or of a run-length mask, for an image of size [height, width]."""
    if isinstance(mask, list):
        if is_crowd:
            yield (
                'crowd with polygons',
                'iscrowd is 1, and training ignores the object',
                'write iscrowd=0 for single objects, and the masks of crowds as RLE',
            )
        invalid = [polygon for polygon in mask if not is_polygon(polygon)]
        if invalid:
            yield (
                'invalid polygon',
                f'segmentation has {str(invalid[0])[:60]}, which is not the x and y of three or more points',
                'write polygons as [[x1, y1, x2, y2, x3, y3, ...], ...], or remove the annotation',
            )
            return
        corners, extent = _corners(box), _corners(box_of(mask))
        if max(abs(a - b) for a, b in zip(extent, corners, strict=True)) > TOLERANCE:
            yield (
                'polygons that do not fit their box',
                f'they reach from {extent[:2]} to {extent[2:]}, and bbox {box} from {corners[:2]} to {corners[2:]}',
                'write both in the pixels of the image: polygons as x, y, ..., the box as [x, y, width, height]',
            )
    elif mask['size'] != size or not is_run_lengths(mask):
        yield (
            'invalid run-length mask',
            f'segmentation is {str(mask)[:60]}, and the image has (height, width) {tuple(size)}',
            'write it again by pycocotools.mask.encode, with the size of the image and counts as a string',
        )


def _corners(box: list[float]) -> list[float]:
    x, y, w, h = box
    return [x, y, x + w, y + h]
