"""Data sets in other formats, converted to COCO's. Each module reads the folders of one format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from backbones.errors import UserError

from . import coco, cvat, labelme, supervisely, voc, yolo
from .dataset import Dataset, LabelledImage, finish, to_coco
from .files import Folder, read_json, read_xml, reading
from .objects import Object

__all__ = ['READERS', 'Dataset', 'Folder', 'LabelledImage', 'Object', 'detect', 'finish', 'to_coco']

READERS: dict[str, Callable[[Folder], Dataset]] = dict(
    coco=coco.read,
    cvat=cvat.read,
    labelme=labelme.read,
    supervisely=supervisely.read,
    voc=voc.read,
    yolo=yolo.read,
)


def detect(folder: Folder) -> str:
    """Find the format of a folder by what is in it.

    Raises:
        UserError: If it is none of the formats in ``READERS``, or may be several.
    """
    found = set()
    for ending in ('.xml', '.json'):
        kinds = (_kind_of(path) for path in folder.with_ending(ending))
        found.add(next((kind for kind in kinds if kind), None))
    found.discard(None)
    if any(path.name == 'meta.json' for path in folder.files) and any(p.parent.name == 'ann' for p in folder.files):
        found = {'supervisely'}
    names = {path.name.lower() for path in folder.files}
    places = {part.lower() for path in folder.with_ending('.txt') for part in path.relative_to(folder.root).parts[:-1]}
    if names & set(yolo.NAME_FILES) or 'labels' in places or folder.with_ending('.names'):
        found.add('yolo')
    if not found and folder.root.name.lower() in ('images', 'labels', 'annotations', 'jpegimages'):
        raise UserError(f'{folder.root} has only a part of a data set: name the folder above it')
    if len(found) != 1:
        what = f'may be {" or ".join(sorted(found))}' if found else 'has no labels of a known format'
        raise UserError(
            f'{folder.root} {what}: name one of {", ".join(READERS)}, and the folder that has the labels, or masks and '
            'the folder of coloured masks'
        )
    return found.pop()


def _kind_of(path: Path) -> str | None:
    """The format of an XML or JSON file."""
    with reading(path):
        if path.suffix.lower() == '.xml':
            return dict(annotation='voc', annotations='cvat').get(read_xml(path).tag)
        content = read_json(path)
        if isinstance(content, dict) and 'shapes' in content:
            return 'labelme'
        if isinstance(content, dict) and {'images', 'categories'} <= content.keys():
            return 'coco'
    return None
