"""Objects and images of an annotation file that mmdet leaves out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine_plugin.data.image_checks import Problem

from .image_files import has_size
from .mask_checks import describe

Entry = Mapping[str, Any]

BOX = 'write boxes as [x, y, width, height] in pixels, or run python tools/check_dataset.py CONFIG, which lists all'


def unusable_because(annotation: Entry, image: Entry) -> str | None:
    """Why mmdet leaves out an object; ``None`` if it uses it.

    Args:
        annotation: A complete annotation.
        image: Its image. Without a size, the place of the box is not checked.
    """
    x, y, w, h = annotation['bbox']
    if w < 1 or h < 1:
        return f'bbox is {annotation["bbox"]}, and boxes that are narrower than a pixel are left out'
    if annotation['area'] <= 0:
        return f'area is {annotation["area"]}, and objects without area are left out'
    if has_size(image):
        across, down = min(x + w, image['width']) - max(x, 0), min(y + h, image['height']) - max(y, 0)
        if across <= 0 or down <= 0:
            return f'bbox is {annotation["bbox"]}, outside the image of {image["width"]}x{image["height"]} pixels'
    return None


def objects_of(content: Entry, classes: Sequence[str]) -> Iterator[tuple[Entry, Entry]]:
    """The annotations of some classes, each with its image.

    Args:
        content: Completed content of an annotation file.
        classes: Names of the classes.
    """
    ids = {category['id'] for category in content['categories'] if category['name'] in classes}
    images = {image['id']: image for image in content['images']}
    for annotation in content['annotations']:
        if annotation['category_id'] in ids and annotation['image_id'] in images:
            yield annotation, images[annotation['image_id']]


def unusable_objects(file: str, content: Entry, classes: Sequence[str]) -> tuple[list[Problem], str | None]:
    """Find out how many objects mmdet leaves out.

    Args:
        file: Annotation file.
        content: Its completed content.
        classes: Classes of the config.

    Returns:
        A problem if no object is left, and a note if some are left out.
    """
    names = {image['id']: image['file_name'] for image in content['images']}
    number, reasons = 0, []
    for annotation, image in objects_of(content, classes):
        number += 1
        reason = unusable_because(annotation, image)
        if reason:
            reasons.append(f'{describe(annotation, names)}: {reason}')
    if not reasons:
        return [], None
    if len(reasons) == number:
        detail = f'none of its {number} objects can be used; the first is {reasons[0]}'
        return [Problem(file, 'no usable objects', detail, BOX)], None
    return [], f'{file}: {len(reasons)} of {number} objects are left out; the first is {reasons[0]}'


def left_out_images(file: str, content: Entry, classes: Sequence[str], filter_cfg: Entry | None) -> list[str]:
    """Describe the images that ``filter_cfg`` leaves out of a training.

    Args:
        file: Annotation file.
        content: Its completed content.
        classes: Classes of the config.
        filter_cfg: The setting of the data set.

    Returns:
        One line for images without objects, and one for images that are too small.
    """
    filter_cfg = filter_cfg or {}
    setting, count = 'train_dataloader.dataset.filter_cfg', len(content['images'])
    used = {annotation['image_id'] for annotation, _ in objects_of(content, classes)}
    empty = [image for image in content['images'] if image['id'] not in used]
    smallest = filter_cfg.get('min_size', 0)
    small = [
        image for image in content['images'] if has_size(image) and min(image['height'], image['width']) < smallest
    ]
    lines = []
    if empty and filter_cfg.get('filter_empty_gt'):
        lines.append(
            f'{file}: {len(empty)} of {count} images have no objects and are left out; to train on them, set '
            f'{setting}.filter_empty_gt=False'
        )
    if small:
        lines.append(
            f'{file}: {len(small)} of {count} images are lower or narrower than {smallest} pixels and are left out; '
            f'to train on them, set {setting}.min_size=0'
        )
    return lines
