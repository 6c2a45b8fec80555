"""Pascal VOC's XML files: an annotation for each image (VOC2012 development kit, sections 2.5 and 2.6)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from backbones.errors import UserError

from .dataset import Dataset, LabelledImage
from .files import SPLITS, Folder, number, read_all, read_text, read_xml, reading, text_of
from .images import image_size
from .objects import Object, Size, from_box, from_mask

BORDER = 255  # the pixels of masks that belong to no object


class _Labels(NamedTuple):
    """An XML file: its path, its image and size, and the category, corners and difficulty of each object."""

    path: Path
    image: Path
    size: Size
    objects: list[tuple[str, list[float], bool]]


def read(folder: Folder) -> Dataset:
    """Read all XML files of a folder.

    A pixel has the coordinate 1 at the top left, and a box includes its last pixel. Some programs count from 0: if any
    box begins before 1, all boxes of the folder are taken as corners that count from 0. Difficult objects become
    crowds, which training and scores ignore. Masks of ``SegmentationObject`` are used if all images with objects have
    one. The splits are those of ``ImageSets/Main``, or of folders with the names of splits.

    Raises:
        UserError: If a file is damaged or does not fit. The message names the file and the object.
    """
    labels = read_all(lambda path: _read_labels(folder, path), folder.with_ending('.xml'), 'labels')
    notes = []
    start = 1
    if early := [label.path for label in labels for _, corners, _ in label.objects if min(corners) < 1]:
        start = 0
        notes.append(f'boxes are taken to count from 0, not from 1 as in VOC, since one does in {early[0]}')
    labelled = {label.image for label in labels}
    if others := [path for path in folder.images if path not in labelled and 'Segmentation' not in path.parent.name]:
        notes.append(f'images without an XML file, which are left out: {len(others)}, the first is {others[0]}')
    with_objects = [label for label in labels if label.objects]
    masks = {label.path for label in with_objects if _mask_of(label.path).is_file()}
    if 0 < len(masks) < len(with_objects):
        notes.append(f'only {len(masks)} of {len(with_objects)} images have a mask in SegmentationObject: boxes only')
        masks = set()
    splits = {place: _image_sets(place) for place in {label.path.parent.parent for label in labels}}
    if lost := {name for names in splits.values() for name in names} - {label.path.stem for label in labels}:
        notes.append(f'names in ImageSets without an XML file: {len(lost)}, the first is {min(lost)}')

    def read_objects(label: _Labels) -> LabelledImage:
        with reading(label.path):
            objects = list(_objects(label, start))
            if label.path in masks:
                objects = list(_with_masks(objects, _mask_of(label.path), label.size))
            listed = splits[label.path.parent.parent]
            split = listed.get(label.path.stem) if listed else folder.split_of(label.image)
            return LabelledImage(label.image, label.size, objects, split)

    images = read_all(read_objects, labels, 'objects')
    return Dataset(images, sorted({name for label in labels for name, _, _ in label.objects}), notes)


def _read_labels(folder: Folder, path: Path) -> _Labels:
    with reading(path):
        root = read_xml(path)
        if root.tag != 'annotation':
            raise UserError(f'its root is <{root.tag}>, and that of Pascal VOC is <annotation>')
        image = _find_image(folder, path, root)
        size = root.find('size')
        height, width = (int(number(text_of(size, side))) if size is not None else 0 for side in ('height', 'width'))
        size = image_size(image, (height, width) if height and width else None)  # some programs write 0
        objects = []
        for count, element in enumerate(root.findall('object'), 1):
            with reading(f'object {count}'):
                corners = [number(text_of(element, f'bndbox/{name}')) for name in ('xmin', 'ymin', 'xmax', 'ymax')]
                difficult = element.findtext('difficult', '').strip() == '1'
                objects.append((text_of(element, 'name'), corners, difficult))
        return _Labels(path, image, size, objects)


def _find_image(folder: Folder, path: Path, root: ElementTree.Element) -> Path:
    """The image that an XML file names, or the one with the name of the XML file."""
    name = (root.findtext('filename') or '').strip()
    places = [path.parent, path.parent.parent / 'JPEGImages', path.parent.parent / 'images']
    for place in places:
        if name and (place / name).is_file():
            return place / name
    same = [image for image in folder.by_stem.get(path.stem, ()) if image.parent in places]
    if len(same) == 1:
        return same[0]
    return folder.find(root.findtext('path') or name or f'{path.stem}.jpg', near=path)


def _image_sets(place: Path) -> dict[str, str]:
    """The split of each name in ``ImageSets/Main``, or in another folder of ``ImageSets`` if there is no ``Main``."""
    splits: dict[str, str] = {}
    folder = next(
        (place / 'ImageSets' / n for n in ('Main', 'Segmentation') if (place / 'ImageSets' / n).is_dir()), None
    )
    if folder is None:
        return splits
    names = {path.stem: path for path in folder.glob('*.txt') if path.stem in {*SPLITS, 'trainval'}}
    if 'train' in names:
        names.pop('trainval', None)  # the union of train and val
    for name, path in names.items():
        with reading(path):
            split = SPLITS.get(name, 'train')
            for line in read_text(path).splitlines():
                # a list of one class has a flag behind the name: 1, 0 or -1
                image = re.sub(r'\s+(-1|0|1)$', '', line.strip())
                if image and splits.setdefault(image, split) != split:
                    raise UserError(f'{image} is both in {splits[image]} and in {split}: keep one')
    return splits


def _objects(label: _Labels, start: int) -> Iterable[Object]:
    for count, (name, (left, top, right, bottom), difficult) in enumerate(label.objects, 1):
        with reading(f'object {count}'):
            if right < left or bottom < top:
                raise UserError(f'its box ends at ({right:g}, {bottom:g}), before it begins at ({left:g}, {top:g})')
            part = from_box(name, [left - start, top - start, right, bottom], label.size)
            part.crowd = difficult
            yield part


def _mask_of(path: Path) -> Path:
    return path.parent.parent / 'SegmentationObject' / f'{path.stem}.png'


def _with_masks(objects: list[Object], path: Path, size: Size) -> Iterable[Object]:
    """The objects with their masks: the pixels of the k-th object have the value k."""
    with Image.open(path) as image:
        if image.mode not in ('P', 'L'):
            raise UserError(f'{path} has the mode {image.mode}: a mask has a palette, or one channel of object numbers')
        numbers = np.asarray(image)
    if numbers.shape != size:
        raise UserError(f'{path} has {numbers.shape[1]}x{numbers.shape[0]} pixels, and its image {size[1]}x{size[0]}')
    found = set(np.unique(numbers).tolist()) - {0, BORDER}
    if found != set(range(1, len(objects) + 1)):
        raise UserError(f'{path} has the objects {sorted(found)}, and the XML file has {len(objects)} objects')
    for count, part in enumerate(objects, 1):
        masked = from_mask(part.category, numbers == count, (0, 0), size)
        yield Object(part.category, part.box, masked.area, masked.segmentation, part.crowd)
