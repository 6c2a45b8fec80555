"""YOLO's text files: boxes, polygons and turned boxes, in the layouts of Ultralytics, Darknet, CVAT and Roboflow.

A label file has the name of its image and a line for each object: the index of the class, then either the centre, width
and height of a box, or the corners of a polygon, all in fractions of the image's width and height
(https://docs.ultralytics.com/datasets/detect, .../segment and .../obb).
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import yaml

from backbones.errors import UserError

from .dataset import Dataset, LabelledImage
from .files import SPLITS, Folder, name_of, number, read_all, read_text, reading
from .images import image_size
from .objects import Object, Size, from_box, from_polygon

NAME_FILES = ('classes.txt', 'obj.names', '_darknet.labels')
TOLERANCE = 0.01  # by which a fraction may leave 0 to 1, because of rounding


def read(folder: Folder) -> Dataset:
    """Read the images and labels of a folder.

    Class names come from the YAML file, or from ``classes.txt``, ``*.names`` or ``_darknet.labels``. Splits come from
    the YAML file, from the lists in Darknet's ``*.data`` file, or from folders with the names of splits. An image
    without a label file has no objects.

    Raises:
        UserError: If a file is damaged or does not fit. The message names the file and the line.
    """
    names, splits = _settings(folder)
    if splits is None:
        splits = {image: folder.split_of(image) for image in folder.images}
    labels = {image: label_of(image) for image in splits}
    _check_pairs(folder, labels)
    labels = {image: label for image, label in labels.items() if label.is_file()}

    def read_one(image: Path) -> LabelledImage:
        size = image_size(image)
        if image not in labels:
            return LabelledImage(image, size, [], splits[image])
        with reading(labels[image]):
            return LabelledImage(image, size, _objects(read_text(labels[image]), names, size), splits[image])

    images = read_all(read_one, sorted(splits), 'labels')
    return Dataset(images, [names[index] for index in sorted(names)])


def label_of(image: Path) -> Path:
    """Where the labels of an image are: in the folder ``labels`` that stands for ``images``, or beside the image."""
    parts = image.parts
    for i in range(len(parts) - 2, -1, -1):
        if parts[i].lower() == 'images':
            label = Path(*parts[:i], 'labels', *parts[i + 1 :]).with_suffix('.txt')
            if label.parent.is_dir():
                return label
    return image.with_suffix('.txt')


def _settings(folder: Folder) -> tuple[dict[int, str], dict[Path, str] | None]:
    """The name of each class index, and the split of each image if a file lists it."""
    found = []
    for path in folder.with_ending('.yaml', '.yml'):
        with reading(path):
            try:
                content = yaml.safe_load(read_text(path))
            except yaml.YAMLError as error:
                raise UserError(f'it is not YAML: {" ".join(str(error).split())}') from error
        if isinstance(content, dict) and 'names' in content:
            found.append((path, content))
    if len(found) > 1:
        raise UserError(f'{found[0][0]} and {found[1][0]} both name classes: keep one')
    if found:
        with reading(found[0][0]):
            return _from_yaml(folder, *found[0])
    names = _names(folder)
    for path in folder.with_ending('.data'):
        with reading(path):
            pairs = (line.partition('=') for line in read_text(path).splitlines())
            settings = {key.strip(): value.strip() for key, _, value in pairs}
            splits: dict[Path, str] = {}
            for key, split in SPLITS.items():
                if settings.get(key):
                    _put(splits, _listed(folder, folder.find(settings[key], near=path)), split)
            return names, splits
    return names, None


def _from_yaml(folder: Folder, path: Path, content: dict) -> tuple[dict[int, str], dict[Path, str] | None]:
    """The names and splits in the YAML file that Ultralytics and Roboflow write; no splits if it names none."""
    if content.get('kpt_shape'):
        raise UserError('it has keypoints (kpt_shape), which cannot be converted: export boxes or polygons')
    names = content['names']
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(type(index) is int for index in names):
        raise UserError("names must be a list, or a mapping such as {0: 'cat', 1: 'dog'}")
    if content.get('nc') not in (None, len(names)):
        raise UserError(f'nc is {content["nc"]}, and names has {len(names)} classes: correct one of them')
    # YAML takes names such as 7 for a number; one such as no for false, which is refused
    names = {index: name_of(str(name) if type(name) in (int, float) else name) for index, name in names.items()}
    splits: dict[Path, str] = {}
    for key, split in SPLITS.items():
        places = content.get(key) or []
        for place in [places] if isinstance(places, str) else places:
            with reading(key):
                images = _images_at(folder, path, content.get('path'), place)
                if not images and split != 'test':
                    raise UserError(f'{place} is not there, or has no images: put them there, or correct the path')
                _put(splits, images, split)
    return names, splits or None


def _put(splits: dict[Path, str], images: list[Path], split: str) -> None:
    """Put images into a split. An image of the validation set may be named again for tests, as is usual."""
    for image in images:
        before = splits.setdefault(image, split)
        if before != split and (before, split) != ('val', 'test'):
            raise UserError(f'{image} is both in {before} and in {split}: keep one')


def _images_at(folder: Folder, path: Path, base: str | None, place: str) -> list[Path]:
    """The images of a folder or list that a YAML file names, as seen from ``base``, or from the file itself."""
    bases = [path.parent / base] if base else []
    # Roboflow writes ../train/images beside the folder train, and others write paths of another machine
    place = place.replace('\\', '/')
    parts = [part for part in PurePosixPath(place).parts if part != '..']
    names = [Path(*parts), Path(place), *(Path(*parts[i:]) for i in range(1, len(parts)))]
    for name in names:
        for start in [*bases, path.parent, folder.root]:
            found = Path(os.path.normpath(start / name))
            if found.is_file():
                return _listed(folder, found)
            if found.is_dir():
                return Folder(found).images
    return []


def _listed(folder: Folder, path: Path) -> list[Path]:
    """The images that a list names, a path a line."""
    images = []
    with reading(path):
        for number_, line in enumerate(read_text(path).splitlines(), 1):
            if line.strip():
                with reading(f'line {number_}'):
                    images.append(folder.find(line, near=path))
    return images


def _names(folder: Folder) -> dict[int, str]:
    """The class names in a file that has one a line."""
    found = {}
    for path in folder.files:
        if path.name.lower() in NAME_FILES or path.suffix.lower() == '.names':
            with reading(path):
                found[path] = [name_of(line) for line in read_text(path).rstrip().splitlines()]
    if not found:
        raise UserError(f'{folder.root} has no class names: write classes.txt there, a name a line, index 0 first')
    first = next(iter(found))
    for path, names in found.items():
        if names != found[first]:
            raise UserError(f'{first} and {path} name different classes: keep one')
    return dict(enumerate(found[first]))


def _check_pairs(folder: Folder, labels: dict[Path, Path]) -> None:
    """Refuse label files that have no image, or several."""
    images: dict[Path, Path] = {}
    for image, label in labels.items():
        if images.setdefault(label, image) != image and label.is_file():
            raise UserError(f'{label} belongs to {images[label]} and to {image}: keep one of the images')
    with_image = {label_of(image) for image in folder.images} | images.keys()
    places = {label.parent for label in images}
    lost = [p for p in folder.with_ending('.txt') if p.parent in places and p not in with_image and _is_label(p)]
    if lost:
        raise UserError(
            f'label files without an image: {len(lost)}, the first is {lost[0]}: put it there, or remove the label'
        )


def _is_label(path: Path) -> bool:
    """Whether a text file holds numbers, as opposed to class names, lists of images and READMEs."""
    words = path.read_bytes()[:1000].split()
    return bool(words) and all(word.replace(b'.', b'').isdigit() for word in words[:2]) and len(words) >= 5


def _objects(text: str, names: dict[int, str], size: Size) -> list[Object]:
    """The objects of a label file."""
    objects = []
    for number_, line in enumerate(text.splitlines(), 1):
        if line.strip():
            with reading(f'line {number_}'):
                objects.append(_object([number(word) for word in line.split()], names, size))
    return objects


def _object(values: list[float], names: dict[int, str], size: Size) -> Object:
    """The object of a line."""
    index, *fractions = values
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        raise UserError(f'it has {len(values)} numbers: a box has 5, a polygon 7, 9, 11 and so on')
    if index not in names:
        raise UserError(
            f'class {index:g} is not among the {len(names)} class names: add its name, or correct the index'
        )
    if not all(-TOLERANCE <= value <= 1 + TOLERANCE for value in fractions):
        worst = max(fractions, key=lambda value: abs(value - 0.5))
        raise UserError(f'{worst:g} is not between 0 and 1: divide x by the width of the image, and y by its height')
    height, width = size
    if len(fractions) == 4:
        x, y, w, h = fractions
        corners = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
        return from_box(names[int(index)], corners, size)
    points = [(x * width, y * height) for x, y in zip(fractions[0::2], fractions[1::2], strict=True)]
    return from_polygon(names[int(index)], points, size)
