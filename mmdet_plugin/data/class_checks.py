"""Checks of the classes of a config against an annotation file."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from backbones.errors import did_you_mean
from mmengine_plugin.data.image_checks import Problem


def class_problems(file: str, classes: Sequence[str], names: Sequence[str]) -> Iterator[Problem]:
    """Compare the classes of a config with the category names of an annotation file.

    Args:
        file: Annotation file.
        classes: Classes of the config, in its order.
        names: Names of the file's categories, in any order.

    Yields:
        The problems: names that occur twice, and classes that the file does not have.
    """
    if isinstance(classes, str):
        yield Problem(
            file, 'classes that are not a tuple', f'metainfo has {classes!r}', f'write classes=({classes!r},)'
        )
        return
    for name, count in Counter(classes).items():
        if count > 1:
            detail = f'metainfo.classes has {name!r} {count} times'
            yield Problem(file, 'duplicate class', detail, 'name each class once in metainfo=dict(classes=(...))')
    repeated = [name for name, count in Counter(names).items() if count > 1 and name in classes]
    for name in repeated:
        yield Problem(file, 'duplicate category name', f'it has {name!r} twice', 'give each category its own name')
    if repeated:
        return
    listed = ', '.join(map(repr, names[:10]))
    if len(names) > 10:
        listed += f' and {len(names) - 10} more'
    if not names:
        yield Problem(
            file, 'no categories', 'its list "categories" is empty', 'add "categories": [{"id": 1, "name": "cat"}, ...]'
        )
        return
    known = set(names)
    for name in classes:
        if name not in known:
            yield Problem(
                file,
                'class that the file does not have',
                f'it has no category {name!r}{did_you_mean(name, names)}',
                f"it has {listed}: set metainfo=dict(classes=(...)) in every data loader's dataset, and num_classes in "
                'the heads',
            )


def crowd_only(content: Mapping[str, Any], classes: Sequence[str]) -> dict[int | str, str]:
    """Find the categories of which all annotations are crowds, by their ids.

    Some tools export every mask that was drawn with a brush as a crowd. Training ignores crowds, and no score counts
    them.

    Args:
        content: The completed content of an annotation file.
        classes: Classes of the config.

    Returns:
        The names of the categories, by their ids.
    """
    names = {category['id']: category['name'] for category in content['categories'] if category['name'] in classes}
    single = {annotation['category_id'] for annotation in content['annotations'] if not annotation['iscrowd']}
    used = {annotation['category_id'] for annotation in content['annotations']}
    return {id_: name for id_, name in names.items() if id_ in used - single}


def has_single_objects(content: Mapping[str, Any], classes: Sequence[str]) -> bool:
    """Whether any annotation of the classes is not a crowd. If none is, there is nothing to train on or to score."""
    ids = {category['id'] for category in content['categories'] if category['name'] in classes}
    return any(a['category_id'] in ids and not a['iscrowd'] for a in content['annotations'])


def crowd_problems(file: str, content: Mapping[str, Any], classes: Sequence[str]) -> Iterator[Problem]:
    """Find classes of which all annotations are crowds.

    Args:
        file: Annotation file.
        content: Its completed content.
        classes: Classes of the config.

    Yields:
        A problem for each class.
    """
    counts = Counter(annotation['category_id'] for annotation in content['annotations'])
    for id_, name in crowd_only(content, classes).items():
        yield Problem(
            file,
            'class with crowds only',
            f'all {counts[id_]} annotations of {name!r} have iscrowd=1, and training ignores crowds',
            'write iscrowd=0 for single objects: export without crowds, or run '
            'python tools/check_dataset.py CONFIG --fix FOLDER',
        )


def left_out(content: Mapping[str, Any], classes: Sequence[str]) -> Counter[str]:
    """Count the annotations of the categories that are not among the classes, by category name."""
    names = {category['id']: category['name'] for category in content['categories']}
    counts = Counter(annotation['category_id'] for annotation in content['annotations'])
    return Counter({names[id_]: n for id_, n in counts.items() if id_ in names and names[id_] not in classes})


def unused_classes(file: str, content: Mapping[str, Any], classes: Sequence[str]) -> list[str]:
    """Describe the classes without annotations, if other classes have some.

    Args:
        file: Annotation file.
        content: Its completed content.
        classes: Classes of the config.

    Returns:
        A list of one line, or an empty list.
    """
    used = {annotation['category_id'] for annotation in content['annotations']}
    unused = [category['name'] for category in content['categories'] if category['id'] not in used]
    unused = [name for name in classes if name in unused]
    if not unused or len(unused) == len(classes):
        return []
    listed = ', '.join(map(repr, unused[:10])) + (', ...' if len(unused) > 10 else '')
    return [f'{file}: {len(unused)} of {len(classes)} classes have no objects: {listed}']


def add_empty_categories(content: dict[str, Any], classes: Sequence[str]) -> list[str]:
    """Add a category without annotations for each class that the file does not have.

    Args:
        content: Completed content of an annotation file, which changes.
        classes: Classes of the config.

    Returns:
        The names that were added.
    """
    known = {category['name'] for category in content['categories']}
    lacking = [name for name in classes if name not in known]
    ids = [category['id'] for category in content['categories']]
    first = max((id_ for id_ in ids if isinstance(id_, int)), default=0) + 1
    for number, name in enumerate(lacking, first):
        id_ = str(number) if any(isinstance(other, str) for other in ids) else number
        content['categories'].append(dict(id=id_, name=name))
    return lacking
