"""Checks whether all objects have the masks that a config loads."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine_plugin.data.image_checks import Problem

from .masks import has_mask

UNUSABLE = 'object with an unusable mask'  # training ignores such an object
FASTER_RCNN = "_base_ = __import__('mmdet_plugin').config('faster_rcnn_mambaout_tiny')"


def mask_problems(file: str, content: Mapping[str, Any], classes: Sequence[str]) -> list[Problem]:
    """Find objects that mmdet cannot load or ignores, since they have no mask.

    Args:
        file: Annotation file.
        content: Its completed content.
        classes: Classes of the config. Objects of other classes need no mask.

    Returns:
        One problem for each annotation without a mask, or a single one if no annotation has a mask.
    """
    ids = {category['id'] for category in content['categories'] if category['name'] in classes}
    needed = [a for a in content['annotations'] if a['category_id'] in ids]
    lacking = [annotation for annotation in needed if not has_mask(annotation.get('segmentation'))]
    if lacking and len(lacking) == len(needed):
        detail = f'none of its {len(needed)} annotations has a mask, and the config trains masks'
        return [Problem(file, 'set of boxes only', detail, f'train a detector of boxes: {FASTER_RCNN}')]
    names = {image['id']: image['file_name'] for image in content['images']}
    fix = (
        'write polygons as [[x1, y1, x2, y2, x3, y3, ...], ...] or run lengths, remove these annotations, or train a '
        f'detector of boxes: {FASTER_RCNN}'
    )
    problems = []
    for annotation in lacking:
        mask = annotation.get('segmentation')
        kind = UNUSABLE if mask else 'object without a mask'
        problems.append(Problem(file, kind, f'{describe(annotation, names)}: segmentation is {str(mask)[:60]}', fix))
    return problems


def describe(annotation: Mapping[str, Any], names: Mapping[int | str, str]) -> str:
    """An annotation and its image in the words of messages, for the file names of images by id."""
    id_ = annotation['image_id']
    return f'annotation {annotation["id"]} of {names.get(id_, f"image {id_}")}'
