"""Folders of annotation files in COCO's format with their images beside them, as Roboflow and others export them."""

from __future__ import annotations

from pathlib import Path

from pycocotools import mask as rle

from backbones.errors import UserError

from ..data.masks import area_of, is_polygon, is_run_lengths
from .dataset import Dataset, LabelledImage
from .files import Folder, name_of, number, read_all, read_json, reading
from .images import image_size
from .objects import Object, Size


def read(folder: Folder) -> Dataset:
    """Read all annotation files of a folder.

    The classes are those of all files, in the order of their ids. A class that only groups others, as Roboflow writes
    it with the id 0, is left out if it has no objects. The splits are those of the folders or of the files' names.

    Raises:
        UserError: If a file is damaged or does not fit. The message names the file and the annotation.
    """
    contents = {}
    for path in folder.with_ending('.json'):
        with reading(path):
            content = read_json(path)
            if isinstance(content, dict) and {'images', 'categories'} <= content.keys():
                contents[path] = content
    if not contents:
        raise UserError(f'{folder.root} has no JSON file with the lists images and categories')
    names: dict[int, str] = {}
    parents, used = set(), set()
    for path, content in contents.items():
        with reading(path):
            for category in content['categories']:
                name = name_of(category['name'])
                if names.setdefault(int(category['id']), name) != name:
                    raise UserError(
                        f'category {category["id"]} is {name!r} here and {names[category["id"]]!r} elsewhere'
                    )
                parents.add(category.get('supercategory'))
            used |= {annotation.get('category_id') for annotation in content.get('annotations', ())}
    images = []
    for path, content in contents.items():
        with reading(path):
            images += _read_file(folder, path, content, names)
    categories = [names[i] for i in sorted(names) if i in used or names[i] not in parents]
    notes = [f'left out the class {names[i]!r}, which has no objects' for i in names if names[i] not in categories]
    return Dataset(images, categories, notes)


def _read_file(folder: Folder, path: Path, content: dict, names: dict[int, str]) -> list[LabelledImage]:
    annotations: dict[int, list[dict]] = {entry['id']: [] for entry in content['images']}
    for count, entry in enumerate(content.get('annotations', ())):
        with reading(f'annotations[{count}]'):
            if entry['image_id'] not in annotations:
                raise UserError(f'no image has the id {entry["image_id"]}')
            annotations[entry['image_id']].append(entry)

    def read_one(entry: dict) -> LabelledImage:
        with reading(entry.get('file_name')):
            image = folder.find(entry['file_name'], near=path)
            labelled = (int(entry['height']), int(entry['width'])) if 'height' in entry else None
            size = image_size(image, labelled)
            objects = []
            for annotation in annotations[entry['id']]:
                with reading(f'annotation {annotation.get("id")}'):
                    objects.append(_object(annotation, names, size))
            return LabelledImage(image, size, objects, folder.split_of(path))

    return read_all(read_one, content['images'], path.name)


def _object(annotation: dict, names: dict[int, str], size: Size) -> Object:
    if annotation['category_id'] not in names:
        raise UserError(f'no category has the id {annotation["category_id"]}')
    x, y, w, h = (number(value) for value in annotation['bbox'])
    mask, area = annotation.get('segmentation') or None, w * h
    if isinstance(mask, list):
        if not all(is_polygon(polygon) for polygon in mask):
            raise UserError('its segmentation has a polygon that is not the x and y of three points or more')
        area = area_of(mask)
    elif mask:
        if not is_run_lengths(mask) or mask['size'] != list(size):
            raise UserError(f'its run-length mask does not cover its image of (height, width) {size}')
        runs = rle.frPyObjects(mask, *size) if isinstance(mask['counts'], list) else mask
        counts = runs['counts'].decode() if isinstance(runs['counts'], bytes) else runs['counts']
        mask, area = dict(size=list(size), counts=counts), int(rle.area(runs))
    return Object(names[annotation['category_id']], (x, y, w, h), area, mask, bool(annotation.get('iscrowd')))
