"""Every fault of a data set in COCO's format, where training stops at the first or leaves out what it does not like."""

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
from mmengine_plugin.faults import Fault, check_image, each, transform_of

from .coco import class_faults

TOLERANCE = 2  # pixels that a box may leave its image: rounding, and tools that count pixels from 1
# what entries are looked up by
TYPES = dict(id=int | str, image_id=int | str, category_id=int | str, file_name=str, name=str, iscrowd=int)
EXPORT = 'export the annotations again, or mend the file'


def check(datasets: Sequence[CocoDataset]) -> list[Fault]:
    """Find all faults of annotation files and images.

    Args:
        datasets: Data sets that were built with ``lazy_init=True``, so that none has refused anything yet.

    Raises:
        UserError: If one is not in COCO's format.
    """
    for dataset in datasets:
        if not isinstance(dataset, CocoDataset):
            raise UserError(f'{type(dataset).__name__} is no CocoDataset of mmdet, whose format can be checked')
    return [fault for dataset in datasets for fault in _check_set(dataset)]


def _check_set(dataset: CocoDataset) -> Iterator[Fault]:
    file, folder = dataset.ann_file, dataset.data_prefix['img']
    try:
        content = json.loads(fileio.get(file, backend_args=dataset.backend_args))
    except FileNotFoundError:
        yield Fault(
            file,
            'missing annotation file',
            f'it is not there, seen from {Path.cwd()}',
            'put or link it there, or set data_root and ann_file in the data loaders of the config',
        )
        return
    except OSError as error:
        yield Fault(file, 'unreadable annotation file', f'{error.strerror}', 'look at its permissions and at the disk')
        return
    except ValueError as error:
        yield Fault(file, 'damaged annotation file', f'it is no JSON: {error}', 'copy, download or export it again')
        return
    lists = ['images', 'categories'] + ['annotations'] * (not dataset.test_mode)  # a test set may have no annotations
    lacking = [key for key in lists if not isinstance(content, dict) or not isinstance(content.get(key), list)]
    if lacking:
        yield Fault(
            file,
            "annotation file of another format than COCO's",
            f'it has no list {" and no list ".join(map(repr, lacking))}',
            "write it in COCO's format, as pycocotools reads it: https://cocodataset.org/#format-data",
        )
        return
    entries = {}
    # what mmdet asks every entry for; pycocotools asks for iscrowd when it scores
    for key, wanted in dict(
        images=('id', 'file_name', 'height', 'width'),
        categories=('id', 'name'),
        annotations=('id', 'image_id', 'category_id', 'bbox', 'area') + ('iscrowd',) * dataset.test_mode,
    ).items():
        entries[key] = []
        for number, entry in enumerate(content.get(key) or ()):
            if not isinstance(entry, dict):
                yield Fault(file, 'entry of another kind', f'{key}[{number}] is {str(entry)[:60]}', EXPORT)
            elif lacking := [name for name in wanted if entry.get(name) is None]:
                yield Fault(file, 'incomplete entry', f'{key}[{number}] has no {", ".join(lacking)}', EXPORT)
            elif wrong := [name for name in TYPES if name in entry and not isinstance(entry[name], TYPES[name])]:
                what = f'{key}[{number}] has {wrong[0]}={str(entry[wrong[0]])[:60]}'
                yield Fault(file, 'entry of another kind', what, EXPORT)
            elif key == 'images' and not _are_numbers([entry['height'], entry['width']]):
                yield Fault(file, 'image size that is no number', f'{key}[{number}] is {entry}', EXPORT)
            else:
                entries[key].append(entry)
        for number, times in Counter(entry['id'] for entry in entries[key]).items():
            if times > 1:
                yield Fault(
                    file, 'id that is not unique', f'{times} {key} have the id {number}', 'give each an id of its own'
                )
    yield from class_faults(file, dataset.metainfo['classes'], [category['name'] for category in entries['categories']])
    known = (entry.get('id') for entry in content['images'] if isinstance(entry, dict))
    images = dict.fromkeys(id_ for id_ in known if isinstance(id_, TYPES['id']))  # None where incomplete
    images |= {image['id']: image for image in entries['images']}
    categories = {category['id'] for category in entries['categories']}
    if not entries['images'] or not dataset.test_mode and not entries['annotations']:
        what = 'annotations' if entries['images'] else 'images'
        yield Fault(file, 'nothing to train on', f'it has no complete {what}', EXPORT)
    masks = transform_of(dataset, LoadAnnotations).with_mask
    for mark in tqdm(entries['annotations'], file, mininterval=1):
        image = images.get(mark['image_id'])
        for kind, what, cure in _check_mark(mark, images, categories, masks):
            name = image['file_name'] if image else f'image {mark["image_id"]}'
            yield Fault(file, kind, f'annotation {mark["id"]} of {name}: {what}', cure)
    if not fileio.isdir(folder, backend_args=dataset.backend_args):
        yield Fault(
            folder,
            'missing image folder',
            f'it is not there, seen from {Path.cwd()}',
            'put or link it there, or set data_root and data_prefix in the data loaders of the config',
        )
        return
    check_one = partial(_check_image, folder, transform_of(dataset, LoadImageFromFile))
    for faults in each(check_one, entries['images'], folder):
        yield from faults


def _check_image(folder: str, loader: LoadImageFromFile, image: dict) -> list[Fault]:
    size = (image['height'], image['width'])
    return list(check_image(osp.join(folder, image['file_name']), loader, size, 'the annotation file says'))


def _check_mark(
    mark: dict, images: dict[int, dict | None], categories: set[int], masks: bool
) -> Iterator[tuple[str, str, str]]:
    """Kind, particulars and cure of each fault of one annotation."""
    image = images.get(mark['image_id'])
    if mark['image_id'] not in images:
        yield 'annotation of an unknown image', f'no image has the id {mark["image_id"]}', EXPORT
    if mark['category_id'] not in categories:
        yield 'annotation of an unknown category', f'no category has the id {mark["category_id"]}', EXPORT
    yield from _check_box(mark['bbox'], image)
    if not _are_numbers([mark['area']]) or mark['area'] <= 0:
        yield (
            'object without area',
            f'area is {mark["area"]}, and training leaves the object out',
            "write the number of the object's pixels, or the area of its box",
        )
    if masks and image:
        size = [image['height'], image['width']]
        yield from _check_mask(mark.get('segmentation'), mark['bbox'], mark.get('iscrowd'), size)


def _check_box(box: object, image: dict | None) -> Iterator[tuple[str, str, str]]:
    if not isinstance(box, list) or len(box) != 4 or not _are_numbers(box):
        yield 'box that is not four numbers', f'bbox is {box}', 'write [x, y, width, height] in pixels'
        return
    x, y, w, h = box
    if w <= 0 or h <= 0:
        yield (
            'box without extent',
            f'bbox is {box}, and training leaves the object out',
            'take the annotation out, or write [x, y, width, height] in pixels',
        )
    elif max(box) <= 1:
        yield (
            'box in fractions of its image',
            f'bbox is {box}, and training leaves out what is narrower than a pixel',
            'multiply x and width by the width of the image, y and height by its height',
        )
    elif image and max(-x, -y, x + w - image['width'], y + h - image['height']) > TOLERANCE:
        yield (
            'box outside its image',
            f'bbox {box} leaves {image["width"]}x{image["height"]} pixels',
            "write [x, y, width, height], not two corners, of this image's pixels",
        )


def _check_mask(mask: object, box: list, crowd: bool, size: list[int]) -> Iterator[tuple[str, str, str]]:
    if not mask:
        yield (
            'object without a mask',
            f'segmentation is {mask}',
            'add the mask, or train without: a model without mask_head, and with_mask=False in LoadAnnotations',
        )
    elif isinstance(mask, list):
        if crowd:
            yield (
                'crowd with polygons',
                'iscrowd is 1, and training ignores the object',
                'write iscrowd=0 for single objects, and the masks of crowds as RLE',
            )
        wrong = [p for p in mask if not isinstance(p, list) or len(p) < 6 or len(p) % 2 or not _are_numbers(p)]
        if wrong:
            yield (
                'polygon that is not three or more points',
                f'segmentation has {str(wrong[0])[:60]}',
                'write polygons as [[x1, y1, x2, y2, x3, y3, ...], ...], or take the annotation out',
            )
        elif isinstance(box, list) and len(box) == 4 and _are_numbers(box):
            xs, ys = ([value for polygon in mask for value in polygon[axis::2]] for axis in (0, 1))
            corners = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
            extent = [min(xs), min(ys), max(xs), max(ys)]
            if max(abs(a - b) for a, b in zip(extent, corners, strict=True)) > TOLERANCE:
                yield (
                    'polygons beside their box',
                    f'they reach from {extent[:2]} to {extent[2:]}, and bbox {box} from {corners[:2]} to {corners[2:]}',
                    "write both in the image's pixels: polygons as x, y, ..., the box as [x, y, width, height]",
                )
    elif not isinstance(mask, dict) or mask.get('size') != size or not _is_whole(mask.get('counts'), size):
        yield (
            'broken run-length mask',
            f'segmentation is {str(mask)[:60]}, and the image has (height, width) {tuple(size)}',
            'write it again by pycocotools.mask.encode, with the size of the image and counts as a string',
        )


def _are_numbers(values: list) -> bool:
    return all(isinstance(value, Real) and math.isfinite(value) for value in values)


def _is_whole(counts: object, size: list[int]) -> bool:
    """Whether runs cover (height, width) exactly; what they leave open, pycocotools fills with whatever is there."""
    if isinstance(counts, str):
        counts = _run_lengths(counts)
    sound = isinstance(counts, list) and all(isinstance(run, int) and run >= 0 for run in counts)
    return sound and sum(counts) == math.prod(size)


def _run_lengths(counts: str) -> list[int] | None:
    """The numbers in a string of pycocotools: 5 bits a character from the lowest, a 6th where more follow.

    Each but the first three is the difference to the one before the last. None if the string ends within a number.
    """
    runs, run, bits = [], 0, 0
    for character in counts.encode():
        character -= 48
        run |= (character & 31) << bits
        bits += 5
        if not character & 32:
            run -= (character & 16) << bits - 4  # its highest bit is the sign
            runs.append(run + (runs[-2] if len(runs) > 2 else 0))
            run = bits = 0
    return None if bits else runs
