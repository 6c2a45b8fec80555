"""Completes the entries of an annotation file: fills in what follows from the rest, and finds what cannot be used."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from mmengine_plugin.data.image_checks import Problem

from .annotation_file import AnnotationFile
from .masks import area_of, box_of, is_box

Entry = dict[str, Any]

EXPORT = 'export the annotations again, or correct the file'
# the fields of complete entries, and the types of their values
FIELDS = dict(
    images=dict(id=(int, str), file_name=(str,)),
    categories=dict(id=(int, str), name=(str,)),
    annotations=dict(image_id=(int, str), category_id=(int, str), bbox=(list,), area=(int, float), iscrowd=(int, bool)),
)
LARGEST_ID = 2**53  # faster-coco-eval stores ids as float64


def complete(file: AnnotationFile) -> None:
    """Fill in what is missing and follows from the rest, and take out the entries that cannot be used.

    Args:
        file: An annotation file with the lists ``images``, ``annotations`` and ``categories``. Its entries are changed,
            and its changes and problems are added to.
    """
    for key in FIELDS:
        entries = list(_dicts(file, key))
        _write_integers(file, entries)
        if key == 'annotations':
            _fill_in(file, entries)
        file.content[key] = _usable(file, key, entries)
    for key in ('images', 'categories'):
        _check_ids(file, key)
    _number(file)
    _connect(file)


def _dicts(file: AnnotationFile, key: str) -> Iterator[Entry]:
    for number, entry in enumerate(file.content[key]):
        if isinstance(entry, dict):
            yield entry
        else:
            file.unusable[key].append(entry)
            detail = f'{key}[{number}] is {str(entry)[:60]}'
            file.problems.append(Problem(file.path, 'entry of the wrong type', detail, EXPORT))


def _write_integers(file: AnnotationFile, entries: list[Entry]) -> None:
    """Write ids such as 1.0 as integers."""
    for name in ('id', 'image_id', 'category_id'):
        if float in {type(entry.get(name)) for entry in entries}:
            for entry in entries:
                if isinstance(entry.get(name), float) and entry[name].is_integer():
                    entry[name] = int(entry[name])
                    file.changes[f'{name} written as an integer'] += 1


def _fill_in(file: AnnotationFile, annotations: list[Entry]) -> None:
    """Fill in missing crowd flags, boxes and areas, and turn strings of numbers into numbers."""
    for annotation in [a for a in annotations if a.get('iscrowd') is None]:
        annotation['iscrowd'] = 0
        file.changes['iscrowd=0 filled in'] += 1
    for annotation in [a for a in annotations if not a.get('bbox')]:
        box = box_of(annotation.get('segmentation'))
        if box:
            annotation['bbox'] = box
            file.changes['bbox filled in from the mask'] += 1
    if not _all_numbers(annotations):
        for annotation in annotations:
            _read_numbers(file, annotation)
    for annotation in [a for a in annotations if a.get('area') is None]:
        area, box = area_of(annotation.get('segmentation')), annotation.get('bbox')
        if area is not None:
            annotation['area'] = area
            file.changes['area filled in from the mask'] += 1
        elif is_box(box):
            annotation['area'] = box[2] * box[3]
            file.changes['area filled in from the box'] += 1


def _all_numbers(annotations: list[Entry]) -> bool:
    """Whether all boxes are four finite numbers. This takes a fraction of the time that a look at each box takes."""
    try:
        boxes = np.array([annotation['bbox'] for annotation in annotations])
    except (KeyError, ValueError, OverflowError):
        return False
    return boxes.dtype.kind in 'if' and boxes.shape[1:] == (4,) and bool(np.isfinite(boxes).all())


def _read_numbers(file: AnnotationFile, annotation: Entry) -> None:
    box = annotation.get('bbox')
    if isinstance(box, list) and any(isinstance(value, str) for value in box):
        try:
            annotation['bbox'] = [float(value) for value in box]
        except (TypeError, ValueError):
            return
        file.changes['bbox of strings read as numbers'] += 1


def _usable(file: AnnotationFile, key: str, entries: list[Entry]) -> list[Entry]:
    """The complete entries; the others are problems."""
    fields = FIELDS[key]
    columns = {name: {type(entry.get(name)) for entry in entries} for name in fields}
    numbers = key != 'annotations' or _all_numbers(entries)
    if numbers and all(types <= set(fields[name]) for name, types in columns.items()):
        return entries
    usable = []
    for number, entry in enumerate(entries):
        problem = _problem(key, f'{key}[{number}]', entry)
        if problem:
            file.unusable[key].append(entry)
            file.problems.append(Problem(file.path, *problem))
        else:
            usable.append(entry)
    return usable


def _problem(key: str, name: str, entry: Entry) -> tuple[str, str, str] | None:
    """The kind, the detail and the fix of an entry's first problem."""
    if entry.get('image_id') is not None:
        name += f' of image {str(entry["image_id"])[:60]}'
    missing = [field for field in FIELDS[key] if entry.get(field) is None]
    if 'bbox' in missing and not entry.get('segmentation'):
        return (
            'object without a box',
            f'{name} has no bbox and no segmentation',
            'add the box, or remove the annotation',
        )
    if missing:
        return 'incomplete entry', f'{name} has no {", ".join(missing)}', EXPORT
    if key == 'annotations' and not is_box(entry['bbox']):
        box = str(entry['bbox'])[:60]
        return 'box that is not four numbers', f'{name}: bbox is {box}', 'write [x, y, width, height] in pixels'
    for field, types in FIELDS[key].items():
        if not isinstance(entry[field], types):
            return 'entry of the wrong type', f'{name} has {field}={str(entry[field])[:60]}', EXPORT
    return None


def _remove_copies(file: AnnotationFile, key: str) -> None:
    """Remove entries that equal an earlier one with the same id: a file was merged with itself."""
    first, kept = {}, []
    for entry in file.content[key]:
        earlier = first.setdefault(str(entry.get('id')), entry)
        if earlier is entry or earlier != entry:
            kept.append(entry)
        else:
            file.changes[f'copy in {key} removed'] += 1
    file.content[key] = kept


def _check_ids(file: AnnotationFile, key: str) -> None:
    """Find ids that different images or categories share."""
    if len({entry['id'] for entry in file.content[key]}) == len(file.content[key]):
        return
    _remove_copies(file, key)
    by_id: dict[int | str, list[str]] = {}
    for entry in file.content[key]:
        by_id.setdefault(entry['id'], []).append(entry['file_name' if key == 'images' else 'name'])
    for id_, names in by_id.items():
        if len(names) > 1:
            detail = f'{len(names)} {key} have the id {id_}: {", ".join(names[:4])}'
            fix = f'give each of the {key} its own id, and correct the annotations that refer to it'
            file.problems.append(Problem(file.path, 'duplicate id', detail, fix))


def _number(file: AnnotationFile) -> None:
    """Number the annotations from 1 if their ids cannot be used.

    pycocotools and faster-coco-eval take a match with the id 0 for none, and look up annotations by their ids. Nothing
    else refers to annotations by id.
    """
    if _ids_can_be_used(file.content['annotations']):
        return
    _remove_copies(file, 'annotations')
    if _ids_can_be_used(file.content['annotations']):
        return
    for number, annotation in enumerate(file.content['annotations'], start=1):
        annotation['id'] = number
        file.changes['annotation ids numbered from 1 in the order of the file'] += 1


def _ids_can_be_used(annotations: list[Entry]) -> bool:
    ids = [annotation.get('id') for annotation in annotations]
    if {type(id_) for id_ in ids} - {int} or len(set(ids)) < len(ids):
        return False
    return min(ids, default=1) > 0 and max(ids, default=1) <= LARGEST_ID


def _connect(file: AnnotationFile) -> None:
    """Let annotations refer to images and categories that exist: an id may be 1 in one place and '1' in the other."""
    for key, name in (('images', 'image_id'), ('categories', 'category_id')):
        known = {entry['id'] for entry in file.content[key]}
        unknown = [annotation for annotation in file.content['annotations'] if annotation[name] not in known]
        alike = {str(id_): id_ for id_ in known}
        for annotation in unknown:
            if str(annotation[name]) in alike:
                annotation[name] = alike[str(annotation[name])]
                file.changes[f'{name} written as in {key}'] += 1
        if key == 'categories':
            for id_, count in Counter(a[name] for a in unknown if a[name] not in known).items():
                detail = (
                    f'{count} annotations have the category_id {id_}, and the categories {sorted(known, key=str)[:10]}'
                )
                fix = 'add the category to "categories", or remove the annotations'
                file.problems.append(Problem(file.path, 'annotation of an unknown category', detail, fix))
