"""Checks of annotation files as a whole, and of areas."""

from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from mmengine_plugin.data.image_checks import Problem

from .image_files import has_size
from .mask_checks import describe
from .masks import area_of

# A file of so many boxes that all end within 100 pixels of the upper left corner of larger images is not chance.
PERCENT, LARGER, SEVERAL = 100, 200, 10
FEW = 16  # pixels by which an area may always differ


def file_problems(file: str, content: Mapping[str, Any]) -> Iterator[Problem]:
    """Find objects that are annotated twice, and boxes in percent of the image size.

    Args:
        file: Annotation file.
        content: Its completed content.

    Yields:
        A problem for each repeated annotation, and one for the file if its boxes are in percent.
    """
    names = {image['id']: image['file_name'] for image in content['images']}
    first: dict[Hashable, Mapping[str, Any]] = {}
    for annotation in content['annotations']:
        earlier = first.setdefault(object_key(annotation), annotation)
        if earlier is not annotation:
            yield Problem(
                file,
                'object that is annotated twice',
                f'{describe(annotation, names)} has the class and the box of annotation {earlier["id"]}',
                'remove one of them, or run python tools/check_dataset.py CONFIG --fix FOLDER',
            )
    sides = [side for image in content['images'] if has_size(image) for side in (image['height'], image['width'])]
    ends = [max(x + w, y + h) for x, y, w, h in (annotation['bbox'] for annotation in content['annotations'])]
    if sides and min(sides) >= LARGER and len(ends) >= SEVERAL and 1 < max(ends) <= PERCENT:
        yield Problem(
            file,
            'boxes in percent of the image size',
            f'all {len(ends)} boxes end within {max(ends):g} pixels of the upper left corner, in images of '
            f'{min(sides)} pixels and more',
            'multiply x and width by 1 % of the width of the image, y and height by 1 % of its height; polygons, too',
        )


def object_key(annotation: Mapping[str, Any]) -> Hashable:
    """What two annotations of the same object have in common: image, class and box."""
    return annotation['image_id'], annotation['category_id'], tuple(annotation['bbox'])


def wrong_area(annotation: Mapping[str, Any]) -> str | None:
    """Why an area cannot be that of the object; ``None`` if it can.

    The area is that of the mask or of the box, by the tool. It decides whether an object counts as small, medium or
    large. Scores of sizes bear an area that is up to four times too large or too small, because those of adjacent sizes
    differ by nine.

    Args:
        annotation: A complete annotation with a positive area, width and height.
    """
    area, (_, _, w, h) = annotation['area'], annotation['bbox']
    of_mask = area_of(annotation.get('segmentation'))
    if area > 4 * w * h + FEW:
        return f'area is {area}, and its box has {w * h:g} pixels'
    if of_mask and not of_mask / 4 - FEW <= area <= 4 * max(of_mask, w * h) + FEW:
        return f'area is {area}, and its mask has {of_mask:g} pixels'
    if max(w, h) > FEW and area < max(w, h) / 4:  # an object reaches from one side of its box to the other
        return f'area is {area}, and its box has {w:g}x{h:g} pixels'
    return None
