"""Find all problems of data sets in COCO's format. Training stops at the first one, or leaves out objects silently."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from numbers import Real
from os import path as osp
from pathlib import Path

from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations
from mmengine import fileio
from tqdm import tqdm

from backbones.errors import UserError
from mmengine_plugin.data.image_checks import Problem, check_all, check_image, transform_of

from .datasets import class_problems

TOLERANCE = 2  # pixels by which a box may exceed its image, because of rounding and of tools that count pixels from 1
# the keys that mmdet reads of every entry
REQUIRED = dict(
    images=('id', 'file_name', 'height', 'width'),
    categories=('id', 'name'),
    annotations=('id', 'image_id', 'category_id', 'bbox', 'area'),
)
# the types of values by which entries are looked up
TYPES = dict(id=int | str, image_id=int | str, category_id=int | str, file_name=str, name=str, iscrowd=int)
EXPORT = 'export the annotations again, or correct the file'

Finding = tuple[str, str, str]  # kind, detail and fix of a problem of one annotation


def check(datasets: Sequence[CocoDataset]) -> list[Problem]:
    """Find all problems of annotation files and images.

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
    return [problem for dataset in datasets for problem in _check_dataset(dataset)]


def _check_dataset(dataset: CocoDataset) -> Iterator[Problem]:
    file, content = dataset.ann_file, _read_annotations(dataset)
    if isinstance(content, Problem):
        yield content
        return
    required = dict(REQUIRED)
    if dataset.test_mode:
        required['annotations'] += ('iscrowd',)  # pycocotools reads it in evaluation
    entries = {}
    for key, names in required.items():
        entries[key] = []
        for number, entry in enumerate(content.get(key) or ()):
            if problem := _check_entry(file, key, number, entry, names):
                yield problem
            else:
                entries[key].append(entry)
        for id_, count in Counter(entry['id'] for entry in entries[key]).items():
            if count > 1:
                yield Problem(file, 'duplicate id', f'{count} {key} have the id {id_}', 'give each its own id')
    names = [category['name'] for category in entries['categories']]
    yield from class_problems(file, dataset.metainfo['classes'], names)
    if not entries['images']:
        yield Problem(file, 'nothing to train on', 'it has no complete images', EXPORT)
    elif not entries['annotations'] and not dataset.test_mode:
        yield Problem(file, 'nothing to train on', 'it has no complete annotations', EXPORT)
    yield from _check_annotations(dataset, content, entries)
    folder = dataset.data_prefix['img']
    if not fileio.isdir(folder, backend_args=dataset.backend_args):
        yield Problem(
            folder,
            'missing image folder',
            f'it is not there, seen from {Path.cwd()}',
            'put or link it there, or set data_root and data_prefix in the data loaders of the config',
        )
        return
    check_one = partial(_check_image, folder, transform_of(dataset, LoadImageFromFile))
    for problems in check_all(check_one, entries['images'], folder):
        yield from problems


def _read_annotations(dataset: CocoDataset) -> dict | Problem:
    """The content of the annotation file, or why it cannot be used."""
    file = dataset.ann_file
    try:
        content = json.loads(fileio.get(file, backend_args=dataset.backend_args))
    except FileNotFoundError:
        where = f'it is not there, seen from {Path.cwd()}'
        fix = 'put or link it there, or set data_root and ann_file in the data loaders of the config'
        return Problem(file, 'missing annotation file', where, fix)
    except OSError as error:
        return Problem(file, 'unreadable annotation file', f'{error.strerror}', 'check its permissions and the disk')
    except ValueError as error:
        return Problem(file, 'damaged annotation file', f'it is not JSON: {error}', 'copy, download or export it again')
    lists = ['images', 'categories']
    if not dataset.test_mode:  # a test set may have no annotations
        lists.append('annotations')
    missing = [key for key in lists if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if missing:
        return Problem(
            file,
            "annotation file that is not in COCO's format",
            f'it has no list {" and no list ".join(map(repr, missing))}',
            "write it in COCO's format, as pycocotools reads it: https://cocodataset.org/#format-data",
        )
    return content


def _check_entry(file: str, key: str, number: int, entry: object, required: Sequence[str]) -> Problem | None:
    """The first problem of an entry of one of COCO's lists, or None if other entries can refer to it."""
    name = f'{key}[{number}]'
    if not isinstance(entry, dict):
        return Problem(file, 'entry of the wrong type', f'{name} is {str(entry)[:60]}', EXPORT)
    missing = [field for field in required if entry.get(field) is None]
    if missing:
        return Problem(file, 'incomplete entry', f'{name} has no {", ".join(missing)}', EXPORT)
    for field, type_ in TYPES.items():
        if field in entry and not isinstance(entry[field], type_):
            return Problem(file, 'entry of the wrong type', f'{name} has {field}={str(entry[field])[:60]}', EXPORT)
    if key == 'images' and not _are_numbers([entry['height'], entry['width']]):
        return Problem(file, 'image size that is not a number', f'{name} is {entry}', EXPORT)
    return None


def _check_image(folder: str, loader: LoadImageFromFile, image: dict) -> list[Problem]:
    path, size = osp.join(folder, image['file_name']), (image['height'], image['width'])
    return list(check_image(path, loader, size, 'the annotation file says'))


def _check_annotations(dataset: CocoDataset, content: dict, entries: dict[str, list[dict]]) -> Iterator[Problem]:
    images = {}
    for image in content['images']:  # an annotation of an incomplete image is no problem of its own
        if isinstance(image, dict) and isinstance(image.get('id'), TYPES['id']):
            images[image['id']] = None
    for image in entries['images']:
        images[image['id']] = image
    categories = {category['id'] for category in entries['categories']}
    with_masks = transform_of(dataset, LoadAnnotations).with_mask
    for annotation in tqdm(entries['annotations'], dataset.ann_file, mininterval=1):
        image = images.get(annotation['image_id'])
        name = image['file_name'] if image else f'image {annotation["image_id"]}'
        for kind, detail, fix in _check_annotation(annotation, images, categories, with_masks):
            yield Problem(dataset.ann_file, kind, f'annotation {annotation["id"]} of {name}: {detail}', fix)


def _check_annotation(
    annotation: dict, images: dict[int | str, dict | None], categories: set[int | str], with_masks: bool
) -> Iterator[Finding]:
    box, area, image = annotation['bbox'], annotation['area'], images.get(annotation['image_id'])
    if annotation['image_id'] not in images:
        yield 'annotation of an unknown image', f'no image has the id {annotation["image_id"]}', EXPORT
    if annotation['category_id'] not in categories:
        yield 'annotation of an unknown category', f'no category has the id {annotation["category_id"]}', EXPORT
    yield from _check_box(box, image)
    if not _are_numbers([area]) or area <= 0:
        yield (
            'object without area',
            f'area is {area}, and training leaves the object out',
            "write the number of the object's pixels, or the area of its box",
        )
    if with_masks and image:
        size = [image['height'], image['width']]
        yield from _check_mask(annotation.get('segmentation'), box, annotation.get('iscrowd'), size)


def _check_box(box: object, image: dict | None) -> Iterator[Finding]:
    if not _is_box(box):
        yield 'box that is not four numbers', f'bbox is {box}', 'write [x, y, width, height] in pixels'
        return
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
    elif image and max(-x, -y, x + w - image['width'], y + h - image['height']) > TOLERANCE:
        yield (
            'box outside its image',
            f'bbox is {box}, and the image has {image["width"]}x{image["height"]} pixels',
            'write [x, y, width, height] rather than two corners, in the pixels of this image',
        )


def _check_mask(mask: object, box: object, crowd: int | None, size: list[int]) -> Iterator[Finding]:
    """The problems of polygons or of a run-length mask, for an image of size [height, width]."""
    if not mask:
        yield (
            'object without a mask',
            f'segmentation is {mask}',
            'add the mask, or train without masks: a model without mask_head, and with_mask=False in LoadAnnotations',
        )
    elif isinstance(mask, list):
        if crowd:
            yield (
                'crowd with polygons',
                'iscrowd is 1, and training ignores the object',
                'write iscrowd=0 for single objects, and the masks of crowds as RLE',
            )
        invalid = [polygon for polygon in mask if not _is_polygon(polygon)]
        if invalid:
            yield (
                'invalid polygon',
                f'segmentation has {str(invalid[0])[:60]}, which is not the x and y of three or more points',
                'write polygons as [[x1, y1, x2, y2, x3, y3, ...], ...], or remove the annotation',
            )
        elif _is_box(box):
            xs = [x for polygon in mask for x in polygon[0::2]]
            ys = [y for polygon in mask for y in polygon[1::2]]
            corners = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
            extent = [min(xs), min(ys), max(xs), max(ys)]
            if max(abs(a - b) for a, b in zip(extent, corners, strict=True)) > TOLERANCE:
                yield (
                    'polygons that do not fit their box',
                    f'they reach from {extent[:2]} to {extent[2:]}, and bbox {box} from {corners[:2]} to {corners[2:]}',
                    'write both in the pixels of the image: polygons as x, y, ..., the box as [x, y, width, height]',
                )
    elif not isinstance(mask, dict) or mask.get('size') != size or not _covers(mask.get('counts'), size):
        yield (
            'invalid run-length mask',
            f'segmentation is {str(mask)[:60]}, and the image has (height, width) {tuple(size)}',
            'write it again by pycocotools.mask.encode, with the size of the image and counts as a string',
        )


def _are_numbers(values: list) -> bool:
    return all(isinstance(value, Real) and math.isfinite(value) for value in values)


def _is_box(box: object) -> bool:
    return isinstance(box, list) and len(box) == 4 and _are_numbers(box)


def _is_polygon(polygon: object) -> bool:
    return isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0 and _are_numbers(polygon)


def _covers(counts: object, size: list[int]) -> bool:
    """Whether run lengths cover an image of size [height, width] exactly.

    If they end too early, pycocotools fills the rest of the mask with whatever is in memory.
    """
    if isinstance(counts, str):
        counts = _run_lengths(counts)
    if not isinstance(counts, list) or not all(isinstance(run, int) and run >= 0 for run in counts):
        return False
    return sum(counts) == math.prod(size)


def _run_lengths(counts: str) -> list[int] | None:
    """Decode the run lengths in a string of pycocotools; None if the string ends within a number.

    A character holds 5 bits of a number, the lowest bits first, and a sixth bit that is set if the next character
    continues the number. From the fourth number on, each is stored as the difference from the number two
    places before it.
    """
    runs, run, bits = [], 0, 0
    for character in counts.encode():
        character -= 48
        run |= (character & 31) << bits
        bits += 5
        if not character & 32:
            run -= (character & 16) << bits - 4  # the highest bit is the sign
            runs.append(run + runs[-2] if len(runs) > 2 else run)
            run = bits = 0
    return None if bits else runs
