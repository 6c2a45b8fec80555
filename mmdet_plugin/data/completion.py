"""Completes the entries of an annotation file: fills in what follows from the rest, and finds what cannot be used."""

from collections.abc import Iterator

import numpy as np

from mmengine_plugin.data.image_checks import Problem

from .annotation_file import AnnotationFile, Entry, class_name
from .entry_ids import check_ids, connect, number_annotations, write_integers, write_strings
from .masks import area_of, box_of, has_mask, is_box

EXPORT = 'export the annotations again, or correct the file'
# the fields of complete entries, and the types of their values
FIELDS = dict(
    images=dict(id=(int, str), file_name=(str,)),
    categories=dict(id=(int, str), name=(str,)),
    annotations=dict(image_id=(int, str), category_id=(int, str), bbox=(list,), area=(int, float), iscrowd=(int, bool)),
)


def complete(file: AnnotationFile) -> None:
    """Fill in what is missing and follows from the rest, and take out the entries that cannot be used.

    Args:
        file: An annotation file with the lists ``images``, ``annotations`` and ``categories``. Its entries are changed,
            and its changes and problems are added to.
    """
    for key in FIELDS:
        entries = list(_dicts(file, key))
        write_integers(file, entries)
        if key == 'annotations':
            _fill_in(file, entries)
        elif key == 'categories':
            _write_names(file, entries)
        else:
            write_strings(file, entries)
        file.content[key] = _usable(file, key, entries)
    for key in ('images', 'categories'):
        check_ids(file, key)
    _drop_empty_twins(file)
    number_annotations(file)
    connect(file)


def _dicts(file: AnnotationFile, key: str) -> Iterator[Entry]:
    for number, entry in enumerate(file.content[key]):
        if isinstance(entry, dict):
            yield entry
        else:
            file.unusable[key].append(entry)
            detail = f'{key}[{number}] is {str(entry)[:60]}'
            file.problems.append(Problem(file.path, 'entry of the wrong type', detail, EXPORT))


def _drop_empty_twins(file: AnnotationFile) -> None:
    """Drop categories without annotations if another one has their name. Roboflow adds one with the project's name."""
    used = {annotation['category_id'] for annotation in file.content['annotations']}
    categories = file.content['categories']
    names = {category['name'] for category in categories if category['id'] in used}
    kept = [category for category in categories if category['id'] in used or category['name'] not in names]
    if len(kept) < len(categories):
        file.content['categories'] = kept
        file.changes['category without annotations removed, since another one has its name'] += len(categories) - len(
            kept
        )


def _write_names(file: AnnotationFile, categories: list[Entry]) -> None:
    for category in categories:
        name = category.get('name')
        if isinstance(name, str | int | float) and class_name(name) != name:
            category['name'] = class_name(name)
            file.changes['category name written in another way'] += 1


def _fill_in(file: AnnotationFile, annotations: list[Entry]) -> None:
    """Fill in missing crowd flags, boxes and areas, and turn strings of numbers into numbers."""
    for annotation in [a for a in annotations if a.get('iscrowd') is None]:
        annotation['iscrowd'] = 0
        file.changes['iscrowd=0 filled in'] += 1
    for annotation in [a for a in annotations if isinstance(a['iscrowd'], float)]:
        annotation['iscrowd'] = int(annotation['iscrowd'])
        file.changes['iscrowd written as an integer'] += 1
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
    for annotation in [a for a in annotations if a.get('ignore')]:
        _write_crowd(file, annotation)


def _write_crowd(file: AnnotationFile, annotation: Entry) -> None:
    """Write an object that is to be ignored as a crowd.

    mmdet takes objects with ``ignore=1`` for background, and pycocotools for objects that must be found. Crowds are
    neither.
    """
    annotation.update(iscrowd=1, ignore=0)
    box = annotation.get('bbox')
    if is_box(box) and not has_mask(annotation.get('segmentation')):
        x, y, w, h = box
        annotation['segmentation'] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    file.changes['ignore=1 written as iscrowd=1'] += 1


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
