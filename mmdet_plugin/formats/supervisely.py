"""Supervisely's project folders (https://developer.supervisely.com/getting-started/supervisely-annotation-format)."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from backbones.errors import UserError

from .dataset import Dataset, LabelledImage
from .files import Folder, name_of, number, read_all, read_json, reading
from .images import image_size, png_mask
from .objects import Object, Size, from_box, from_mask, from_polygon

NOT_OBJECTS = ('cuboid', 'graph', 'line', 'point')


def read(folder: Folder) -> Dataset:
    """Read a project: ``meta.json``, and ``ann/<image>.json`` and ``img/<image>`` in each of its data sets.

    Rectangles become boxes; polygons, with their holes, and bitmaps stay masks. The classes have the order of
    ``meta.json``. The splits are data sets or folders with the names of splits.

    Raises:
        UserError: If a file is damaged or does not fit. The message names the file and the object.
    """
    metas = [path for path in folder.files if path.name == 'meta.json' and path.parent.name not in ('ann', 'meta')]
    if len(metas) != 1:
        raise UserError(f'{folder.root} has {len(metas)} files meta.json: name the folder of one project')
    with reading(metas[0]):
        categories = [name_of(entry['title']) for entry in read_json(metas[0])['classes']]
    left_out: Counter[str] = Counter()
    labels = [path for path in folder.with_ending('.json') if path.parent.name == 'ann']
    images = read_all(lambda path: _read_one(folder, path, categories, left_out), labels, 'labels')
    notes = [f'objects of type {kind}, which are left out: {count}' for kind, count in left_out.items()]
    return Dataset(images, categories, notes)


def _read_one(folder: Folder, path: Path, categories: list[str], left_out: Counter[str]) -> LabelledImage:
    with reading(path):
        content = read_json(path)
        image = folder.find(f'../img/{path.stem}', near=path)
        size = image_size(image, (int(content['size']['height']), int(content['size']['width'])))
        objects = []
        for count, entry in enumerate(content['objects'], 1):
            with reading(f'object {count}'):
                kind = entry['geometryType']
                if kind in NOT_OBJECTS:
                    left_out[kind] += 1
                else:
                    objects.append(_object(kind, entry, categories, size))
        return LabelledImage(image, size, objects, folder.split_of(image))


def _object(kind: str, entry: dict, categories: list[str], size: Size) -> Object:
    name = name_of(entry['classTitle'])
    if name not in categories:
        raise UserError(f'its class {name!r} is not in meta.json: add it there, or correct the name')
    if kind in ('bitmap', 'alpha_mask'):
        left, top = (int(value) for value in entry['bitmap']['origin'])
        return from_mask(name, png_mask(entry['bitmap']['data'], compressed=True), (left, top), size)
    points, *holes = (
        [(number(x), number(y)) for x, y in polygon]
        for polygon in (entry['points']['exterior'], *entry['points'].get('interior', ()))
    )
    if kind == 'rectangle':
        (left, top), (right, bottom) = points
        return from_box(name, [left, top, right, bottom], size)
    if kind == 'polygon':
        return from_polygon(name, points, size, holes)
    raise UserError(f'its type is {kind!r}, which cannot be converted: draw it as a polygon')
