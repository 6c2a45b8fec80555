"""Labelled images of any format, and how they become training, validation and test sets in COCO's format."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

from backbones.errors import UserError
from mmengine_plugin.data.splits import choose_validation

from .images import is_turned
from .objects import Object, Size, rectangle_as_mask


@dataclass
class LabelledImage:
    """An image and its objects.

    Attributes:
        path: The file; if ``content`` is given, the name to write it under.
        size: (height, width) as training loads it.
        objects: The objects; an image without any is a negative.
        split: ``'train'``, ``'val'``, ``'test'``, or None if the source names none.
        content: The bytes of an image that was inside its label file.
    """

    path: Path
    size: Size
    objects: list[Object]
    split: str | None = None
    content: bytes | None = None


@dataclass
class Dataset:
    """What a reader returns.

    Attributes:
        images: The images, sorted.
        categories: Names of the classes, in the order of their indices.
        notes: What the user should know about the conversion, a line each.
    """

    images: list[LabelledImage]
    categories: list[str]
    notes: list[str] = field(default_factory=list)

    @property
    def objects(self) -> list[Object]:
        """The objects of all images."""
        return [part for image in self.images for part in image.objects]

    @property
    def has_masks(self) -> bool:
        """Whether the objects have masks."""
        return any(part.segmentation is not None for part in self.objects)


def finish(dataset: Dataset, root: Path, mixed: str | None, val_fraction: float, seed: int) -> Dataset:
    """Check a data set, leave out what cannot be trained on, and give each image a split.

    Args:
        dataset: What a reader returned.
        root: Folder of the images. Their names below it decide which of them are for validation.
        mixed: ``'boxes'`` or ``'rectangles'``: what to do if only some objects have masks.
        val_fraction: Share of the images for validation, if the source has no validation split.
        seed: Another seed makes another split.

    Raises:
        UserError: If the data set has no objects, contradicts itself, or needs ``mixed``.
    """
    notes = list(dataset.notes)
    _check(dataset)
    if turned := [image.path for image in dataset.images if image.content is None and is_turned(image.path)]:
        notes.append(
            f'images that EXIF turns when they are loaded: {len(turned)}, the first is {turned[0]}. The labels are '
            'taken as made for the turned images: look at them in the picture of check_dataset.py'
        )
    images = [replace(image, objects=[part for part in image.objects if part.area > 0]) for image in dataset.images]
    if not any(image.objects for image in images):
        raise UserError(
            f'{root} has {len(images)} images with labels, but no objects: name the folder that has the labels'
        )
    if empty := [a.path for a, b in zip(dataset.images, images, strict=True) if len(a.objects) > len(b.objects)]:
        notes.append(f'images with objects without area, which are left out: {len(empty)}, the first is {empty[0]}')
    images = _with_equal_masks(images, mixed)
    if crowds := sum(part.crowd for part in dataset.objects):
        notes.append(f'crowds, such as the difficult objects of Pascal VOC: {crowds}. Training and scores ignore them')
    if negatives := [image.path for image in images if not image.objects]:
        notes.append(
            f'images without objects: {len(negatives)}, the first is {negatives[0]}. Training leaves them out, unless '
            'filter_cfg.filter_empty_gt=False'
        )
    return Dataset(_with_splits(images, root, val_fraction, seed, notes), dataset.categories, notes)


def _check(dataset: Dataset) -> None:
    """Refuse classes with the same name and images that are labelled twice."""
    for name, count in Counter(dataset.categories).items():
        if count > 1:
            raise UserError(f'{count} classes have the name {name!r}: give each its own name')
    splits: dict[str, list[str | None]] = {}
    for image in dataset.images:
        splits.setdefault(os.path.realpath(image.path), []).append(image.split)
    for path, found in splits.items():
        if len(found) > 1:
            names = ' and '.join(sorted(split or 'no split' for split in set(found)))
            raise UserError(f'{path} is labelled {len(found)} times, in {names}: keep one')


def _with_equal_masks(images: list[LabelledImage], mixed: str | None) -> list[LabelledImage]:
    """Either all objects have masks, or none has one."""
    boxes = [image for image in images for part in image.objects if part.segmentation is None]
    total = sum(len(image.objects) for image in images)
    if not boxes or len(boxes) == total:
        return images
    if mixed is None:
        raise UserError(
            f'{len(boxes)} of {total} objects have only a box, for example in {boxes[0].path}: type --mixed boxes to '
            'train on boxes alone, or --mixed rectangles to take each such box as a mask'
        )
    results = []
    for image in images:
        if mixed == 'boxes':
            objects = [replace(part, segmentation=None, area=part.box[2] * part.box[3]) for part in image.objects]
        else:
            objects = [p if p.segmentation is not None else rectangle_as_mask(p, image.size) for p in image.objects]
        results.append(replace(image, objects=objects))
    return results


def _with_splits(
    images: list[LabelledImage], root: Path, fraction: float, seed: int, notes: list[str]
) -> list[LabelledImage]:
    """The images that belong to a split; a validation split is made if there is none."""
    split = [image for image in images if image.split]
    if not split:
        split = [replace(image, split='train') for image in images]
    elif len(split) < len(images):
        first = next(image.path for image in images if not image.split)
        notes.append(
            f'images that belong to no split and are left out: {len(images) - len(split)}, the first is {first}'
        )
    found = {image.split for image in split}
    if 'train' not in found:
        raise UserError(f'there are only images for {" and ".join(sorted(found))}: name the folder above all splits')
    if 'val' in found:
        return split
    train = {image.path: name_below(image.path, root) for image in split if image.split == 'train'}
    chosen = choose_validation(train.values(), fraction, seed)
    notes.append(f'{len(chosen)} of {len(train)} training images became the validation set (--val-fraction, --seed)')
    return [replace(image, split='val') if train.get(image.path) in chosen else image for image in split]


def name_below(path: Path, root: Path) -> str:
    """A path as seen from a folder, with forward slashes."""
    return Path(os.path.relpath(path, root)).as_posix()


def to_coco(dataset: Dataset, root: Path) -> dict[str, dict]:
    """The data set in COCO's format.

    Args:
        dataset: A finished data set.
        root: Folder to which the names of the images are relative.

    Returns:
        The content of the annotation file of each split. Ids count from 1, and no two splits share one.
    """
    categories = [dict(id=i, name=name) for i, name in enumerate(dataset.categories, 1)]
    ids = {category['name']: category['id'] for category in categories}
    contents = {}
    annotation_id = 0
    for image_id, image in enumerate(dataset.images, 1):
        content = contents.setdefault(image.split, dict(images=[], annotations=[], categories=categories))
        height, width = image.size
        content['images'].append(dict(id=image_id, file_name=name_below(image.path, root), height=height, width=width))
        for part in image.objects:
            annotation_id += 1
            annotation = dict(id=annotation_id, image_id=image_id, category_id=ids[part.category])
            annotation.update(bbox=list(part.box), area=part.area, iscrowd=int(part.crowd))
            if part.segmentation is not None:
                annotation['segmentation'] = part.segmentation
            content['annotations'].append(annotation)
    return contents
