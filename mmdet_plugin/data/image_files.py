"""Finds the image files that an annotation file names, however their paths are spelled, and reads their sizes."""

import io
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from numbers import Real
from os import path as osp
from typing import Any
from unicodedata import normalize
from urllib.parse import unquote

from mmcv.transforms import BaseTransform
from mmengine import fileio
from PIL import Image

from mmengine_plugin.data.folders import files_below
from mmengine_plugin.data.image_checks import Problem

from .annotation_file import AnnotationFile

ORIENTATION = 0x0112  # the EXIF tag
READERS = 16  # threads that read the headers of images, since a network disk makes each of them wait


def locate_images(file: AnnotationFile, folder: str) -> list[Problem]:
    """Find the file of each image, and write its path into ``file_name``, relative to the folder or absolute.

    Folders are listed as a whole, since a look at each file takes long on a network disk.

    Args:
        file: The annotation file. Its images and its changes are changed.
        folder: The image folder.

    Returns:
        A problem for each image that is not there.
    """
    files = set(files_below(folder))
    unknown = [image for image in file.content['images'] if image['file_name'] not in files]
    if not unknown:
        return []
    names_in = cache(_names_in)
    composed = {normalize('NFC', path): path for path in files}  # macOS decomposes letters with accents
    paths, names_of = {}, defaultdict(set)  # file_name: path, and back
    for image in file.content['images']:
        name = image['file_name']
        if name not in paths:
            if name in files:
                paths[name] = name
            else:
                found = (
                    path if _outside(path, folder, names_in) else composed.get(normalize('NFC', path))
                    for path in _spellings(name, folder)
                )
                paths[name] = next(filter(None, found), None)
            names_of[paths[name]].add(name)
    readable = tuple(Image.registered_extensions())
    pictures = [path for path in sorted(files) if path.lower().endswith(readable)]
    alike = {osp.splitext(osp.basename(path))[0].lower(): path for path in pictures}
    problems = []
    for image in unknown:
        name, path = image['file_name'], paths[image['file_name']]
        if path is None or len(names_of[path]) > 1:  # two names must not become the same image
            problems.append(_missing(file, name, folder, alike))
            continue
        image['file_name'] = path
        if posixpath.normpath(name) != path:
            file.changes['file_name corrected'] += 1
    return problems


def _spellings(name: str, folder: str) -> Iterator[str]:
    """Paths that a name may mean: of Windows, quoted as in a URL, below the folder on another machine, or uploaded."""
    slashes = name.replace('\\', '/')
    for path in (name, slashes, unquote(slashes)):
        yield posixpath.normpath(path)
        parts = path.split('/')
        for number, part in enumerate(parts[:-1], start=1):
            if part == osp.basename(osp.abspath(folder)):
                yield '/'.join(parts[number:])
        if 'upload' in parts:  # Label Studio's path for ab12cd-NAME
            yield parts[-1]
            yield re.sub('^[0-9a-f]{6,8}-', '', parts[-1])


def _outside(path: str, folder: str, names_in: Any) -> bool:
    """Whether a path leads out of the folder to a file that is there."""
    if not path.startswith('../') and not osp.isabs(path):
        return False
    parent, name = osp.split(osp.join(folder, path))
    return name in names_in(parent)


def _names_in(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def _missing(file: AnnotationFile, name: str, folder: str, alike: dict[str, str]) -> Problem:
    """The problem of an image that is not there, with a file of nearly the same name if there is one."""
    detail = f'{file.path} names it, and it is not there'
    nearest = alike.get(osp.splitext(osp.basename(name.replace('\\', '/')))[0].lower())
    if nearest:
        detail += f': {nearest} is there, the file says {name}'
    return Problem(
        osp.join(folder, name), 'missing file', detail, 'copy it there, or correct its file_name or data_prefix'
    )


def read_sizes(file: AnnotationFile, folder: str, loader: BaseTransform, backend_args: dict | None) -> list[Problem]:
    """Fill in ``height`` and ``width`` of the images that lack them, from the headers of the image files.

    Args:
        file: The annotation file. Its images and its changes are changed.
        folder: The image folder.
        loader: The LoadImageFromFile of the pipeline, which may apply the EXIF orientation.
        backend_args: Arguments of mmengine's file backend, if the images are on another machine.

    Returns:
        A problem for each image that has no size and cannot be read.
    """
    images = [image for image in file.content['images'] if not has_size(image)]
    turns = loader.color_type != 'unchanged' and 'ignore_orientation' not in loader.color_type

    def read(image: dict[str, Any]) -> tuple[int, int] | Exception:
        path = osp.join(folder, image['file_name'])
        try:
            source = path if backend_args is None else io.BytesIO(fileio.get(path, backend_args=backend_args))
            with Image.open(source) as picture:
                turned = turns and picture.getexif().get(ORIENTATION, 1) >= 5
                return picture.size[::-1] if turned else picture.size
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            return error

    problems = []
    with ThreadPoolExecutor(READERS) as pool:
        for image, size in zip(images, pool.map(read, images), strict=True):
            if isinstance(size, Exception):
                detail = f'{image["file_name"]} has no height and width, and its file cannot be read: {size}'
                fix = 'write its height and width in pixels, or replace the image'
                problems.append(Problem(file.path, 'image without a size', detail, fix))
            else:
                image['width'], image['height'] = size
                file.changes['height and width filled in from the image'] += 1
    return problems


def has_size(image: dict[str, Any]) -> bool:
    """Whether an image has a height and a width."""
    return all(isinstance(image.get(side), Real) and image[side] > 0 for side in ('height', 'width'))
