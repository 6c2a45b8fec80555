"""CVAT's own XML file, "CVAT for images 1.1" (https://docs.cvat.ai/docs/other/xml_format)."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from backbones.errors import UserError

from .dataset import Dataset, LabelledImage
from .files import SPLITS, Folder, name_of, number, read_all, read_xml, reading
from .images import image_size
from .objects import Object, Size, from_box, from_ellipse, from_mask, from_polygon, join, turn

NOT_OBJECTS = ('cuboid', 'points', 'polyline', 'skeleton', 'tag')


def read(folder: Folder) -> Dataset:
    """Read the XML files of a folder.

    Boxes stay boxes. Turned boxes, polygons, ellipses and masks become masks. Shapes of one image with the same label
    and ``group_id`` are one object. The classes have the order of the task's labels. The splits are the subsets of the
    task, or folders with the names of splits.

    Raises:
        UserError: If a file is damaged or does not fit. The message names the file, the image and the shape.
    """
    left_out: Counter[str] = Counter()
    images, categories = [], []
    for path in folder.with_ending('.xml'):
        with reading(path):
            root = read_xml(path)
            if root.tag != 'annotations':
                raise UserError(f'its root is <{root.tag}>, and that of CVAT is <annotations>')
            if root.find('track') is not None:
                raise UserError('it has the tracks of a video: export the task as "CVAT for images 1.1"')
            categories += [name_of(element.text) for element in root.iterfind('meta/*/labels/label/name')]

            images += read_all(partial(_read_image, folder, path, left_out), root.findall('image'), path.name)
    if not categories:
        categories = sorted({part.category for image in images for part in image.objects})
    notes = [f'shapes of type {kind}, which are left out: {count}' for kind, count in left_out.items()]
    return Dataset(images, list(dict.fromkeys(categories)), notes)


def _read_image(folder: Folder, path: Path, left_out: Counter[str], element: ElementTree.Element) -> LabelledImage:
    with reading(f'image {element.get("name")}'):
        name, subset = element.attrib['name'], element.get('subset', '')
        image = folder.find(f'{subset}/{name}' if subset else name, near=path)
        size = image_size(image, (int(element.attrib['height']), int(element.attrib['width'])))
        groups: dict[object, list[Object]] = {}
        for count, shape in enumerate(element, 1):
            with reading(f'{shape.tag} {count}'):
                if shape.tag in NOT_OBJECTS:
                    left_out[shape.tag] += 1
                    continue
                group = shape.get('group_id', '0')
                key = count if group == '0' else (shape.get('label'), group)  # 0 is no group
                groups.setdefault(key, []).append(_object(shape, size))
        split = SPLITS.get(subset.lower()) or folder.split_of(image)
        return LabelledImage(image, size, [join(parts, size) for parts in groups.values()], split)


def _object(shape: ElementTree.Element, size: Size) -> Object:
    name = name_of(shape.get('label'))
    degrees = number(shape.get('rotation', 0))

    def values(*keys: str) -> list[float]:
        return [number(shape.attrib[key]) for key in keys]

    if shape.tag == 'box':
        left, top, right, bottom = values('xtl', 'ytl', 'xbr', 'ybr')
        if not degrees:
            return from_box(name, [left, top, right, bottom], size)
        x, y = (right - left) / 2, (bottom - top) / 2
        center = ((left + right) / 2, (top + bottom) / 2)
        return from_polygon(name, turn([(-x, -y), (x, -y), (x, y), (-x, y)], center, degrees), size)
    if shape.tag == 'polygon':
        points = [point.split(',') for point in shape.attrib['points'].split(';')]
        return from_polygon(name, [(number(x), number(y)) for x, y in points], size)
    if shape.tag == 'ellipse':
        x, y, rx, ry = values('cx', 'cy', 'rx', 'ry')
        return from_ellipse(name, (x, y), (rx, ry), degrees, size)
    if shape.tag == 'mask':
        left, top, width, height = (int(value) for value in values('left', 'top', 'width', 'height'))
        runs = [int(run) for run in shape.attrib['rle'].split(',')]
        if min(runs) < 0 or sum(runs) != width * height:
            raise UserError(f'its run lengths cover {sum(runs)} pixels, and its rectangle has {width}x{height}')
        pixels = np.repeat(np.arange(len(runs)) % 2, runs)  # row by row, pixels outside the object first
        return from_mask(name, pixels.reshape(height, width), (left, top), size)
    raise UserError('this type cannot be converted: draw it as a polygon')
