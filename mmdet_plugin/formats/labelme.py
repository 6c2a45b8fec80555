"""LabelMe's JSON files, one for each image (https://github.com/wkentaro/labelme)."""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from pathlib import Path, PurePosixPath

from PIL import Image, UnidentifiedImageError

from backbones.errors import UserError

from .dataset import Dataset, LabelledImage
from .files import Folder, name_of, number, read_all, read_json, reading
from .images import image_size, png_mask
from .objects import Object, Size, from_box, from_ellipse, from_mask, from_polygon, join

NOT_OBJECTS = ('line', 'linestrip', 'point', 'points')  # shapes without area


def read(folder: Folder) -> Dataset:
    """Read all JSON files of a folder.

    Rectangles become boxes; polygons, circles and masks stay masks. Shapes of one image with the same label and
    ``group_id`` are one object. An image comes from ``imagePath``, or from ``imageData`` if it is not there. Images
    without a JSON file are left out. The splits are those of folders with the names of splits.

    Raises:
        UserError: If a file is damaged or does not fit. The message names the file and the shape.
    """
    left_out: Counter[str] = Counter()
    images = read_all(lambda path: _read_one(folder, path, left_out), folder.with_ending('.json'), 'labels')
    notes = [f'shapes of type {kind}, which have no area and are left out: {count}' for kind, count in left_out.items()]
    labelled = {image.path for image in images}
    if others := [path for path in folder.images if path not in labelled]:
        notes.append(f'images without a JSON file, which are left out: {len(others)}, the first is {others[0]}')
    return Dataset(images, sorted({part.category for image in images for part in image.objects}), notes)


def _read_one(folder: Folder, path: Path, left_out: Counter[str]) -> LabelledImage:
    with reading(path):
        content = read_json(path)
        labelled = (int(content['imageHeight']), int(content['imageWidth']))
        split = folder.split_of(path.with_suffix(''))
        try:
            image = folder.find(content['imagePath'], near=path)
            inside = None
        except UserError:
            if not content.get('imageData'):
                raise
            name = PurePosixPath(content['imagePath'].replace('\\', '/')).name
            image = path.relative_to(folder.root).parent / name
            inside = base64.b64decode(content['imageData'])
        size = image_size(image, labelled) if inside is None else _size_inside(inside, labelled)
        groups: dict[object, list[Object]] = {}
        for count, shape in enumerate(content['shapes'], 1):
            with reading(f'shape {count}'):
                kind, group = shape.get('shape_type') or 'polygon', shape.get('group_id')
                if kind in NOT_OBJECTS:
                    left_out[kind] += 1
                    continue
                key = count if group is None else (shape['label'], group)
                groups.setdefault(key, []).append(_object(kind, shape, size))
        return LabelledImage(image, size, [join(parts, size) for parts in groups.values()], split, inside)


def _size_inside(content: bytes, labelled: Size) -> Size:
    """The size of an image that is inside its label file."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            size = image.size[::-1]
    except UnidentifiedImageError as error:
        raise UserError('its imageData is not an image') from error
    if size != labelled:
        raise UserError(f'its imageData has {size[1]}x{size[0]} pixels, and it says {labelled[1]}x{labelled[0]}')
    return size


def _object(kind: str, shape: dict, size: Size) -> Object:
    name = name_of(shape['label'])
    points = [(number(x), number(y)) for x, y in shape['points']]
    if kind == 'polygon':
        return from_polygon(name, points, size)
    if kind == 'rectangle':
        xs, ys = zip(*points, strict=True)
        return from_box(name, [min(xs), min(ys), max(xs), max(ys)], size)
    if kind == 'circle':  # its centre and a point on its line
        center, edge = points
        radius = math.dist(center, edge)
        return from_ellipse(name, center, (radius, radius), 0, size)
    if kind == 'mask':  # a PNG, whose corners are the first and the last pixel
        (left, top), _ = points
        return from_mask(name, png_mask(shape['mask']), (int(left), int(top)), size)
    raise UserError(f'its type is {kind!r}, which cannot be converted: draw it as a polygon')
