"""The ids in annotation files: numbers of annotations, and references to images and categories."""

from collections import Counter

from mmengine_plugin.data.image_checks import Problem

from .annotation_file import AnnotationFile, Entry

LARGEST_ID = 2**53  # faster-coco-eval stores ids as float64


def write_integers(file: AnnotationFile, entries: list[Entry]) -> None:
    """Write ids such as 1.0 as integers."""
    for name in ('id', 'image_id', 'category_id'):
        if float in {type(entry.get(name)) for entry in entries}:
            for entry in entries:
                if isinstance(entry.get(name), float) and entry[name].is_integer():
                    entry[name] = int(entry[name])
                    file.changes[f'{name} written as an integer'] += 1


def write_strings(file: AnnotationFile, images: list[Entry]) -> None:
    """Write image ids as strings if only some are strings: they are sorted, and mixed types cannot be."""
    types = {type(image.get('id')) for image in images}
    if types == {int, str}:
        for image in images:
            if isinstance(image['id'], int):
                image['id'] = str(image['id'])
                file.changes['image ids written as strings'] += 1


def check_ids(file: AnnotationFile, key: str) -> None:
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


def number_annotations(file: AnnotationFile) -> None:
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


def connect(file: AnnotationFile) -> None:
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
            counts = Counter(a[name] for a in unknown if a[name] not in known)
            used = {a[name] for a in file.content['annotations']}
            # with ids from 0 in the annotations and from 1 in the categories, each object would have another class
            shifted = set(counts) == {0} and known == set(range(1, len(known) + 1)) and len(known) not in used
            found = file.problems if shifted or not used & known else file.doubts
            for id_, count in counts.items():
                detail = (
                    f'{count} annotations have the category_id {id_}, and the categories {sorted(known, key=str)[:10]}'
                )
                fix = 'add the category to "categories", or remove the annotations'
                found.append(Problem(file.path, 'annotation of an unknown category', detail, fix))
