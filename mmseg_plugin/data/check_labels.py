"""Find label maps with values or colours that belong to no class, and the settings that fit them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from mmseg.datasets import BaseSegDataset

from backbones.errors import UserError
from mmengine_plugin.data.image_checks import Problem

from .color_masks import IGNORED, pack_colors, read_labelmap, unpack_color

MAX_LISTED = 20  # classes for which a message lists all values or colours
MAX_COLORS = 200  # a label map that has more was saved as JPEG, or has smooth edges
NUMBERING = 'set reduce_zero_label, in the data set and in LoadAnnotations, and the classes as the label maps have them'


def count_colors(pixels: np.ndarray) -> Counter[int]:
    """Count the pixels of each colour in a label map.

    Args:
        pixels: ``(H, W, 3)``, uint8, in the order red, green, blue.

    Returns:
        The counts by packed colour, ``0xRRGGBB``, at most for the ``MAX_COLORS + 1`` most frequent ones.
    """
    colors, counts = np.unique(pack_colors(pixels), return_counts=True)
    most = np.argsort(-counts)[: MAX_COLORS + 1]
    return Counter(dict(zip(colors[most].tolist(), counts[most].tolist(), strict=True)))


def check_colors(dataset: BaseSegDataset, found: dict[str, Counter[int]]) -> Iterator[Problem]:
    """Report coloured label maps, with the settings that turn their colours into classes.

    Args:
        dataset: The data set that has them.
        found: By file: the number of pixels of each packed colour.
    """
    if not found:
        return
    total: Counter[int] = Counter()
    for colors in found.values():
        total.update(colors)
    labelmap = _labelmap(dataset)
    if len(total) > MAX_COLORS:
        fix = (
            f'they have more than {MAX_COLORS} colours, as JPEG files and smooth edges have: export them as PNG '
            'without smooth edges, or as indices of classes'
        )
    elif labelmap and {unpack_color(color) for color in total} <= set(labelmap.values()):
        fix = (
            f"set type='FolderDataset', values={tuple(labelmap.values())}, metainfo=dict(classes={tuple(labelmap)}) in "
            f'the data set, and num_classes={len(labelmap)} in the heads'
        )
    else:
        listed = total.most_common(MAX_LISTED)
        shares = ', '.join(f'{100 * count / total.total():.3g} %' for _, count in listed)
        more = f' (of {len(total)} colours, these have the most pixels)' if len(total) > MAX_LISTED else ''
        fix = (
            f"set type='FolderDataset', values={tuple(unpack_color(color) for color, _ in listed)}{more} in the data "
            f'set, and name a class for each colour, in this order; they have {shares} of the pixels'
        )
    for path, colors in found.items():
        number = len(colors) if len(colors) <= MAX_COLORS else f'more than {MAX_COLORS}'
        yield Problem(path, 'coloured label map', f'it has {number} colours', fix)


def _labelmap(dataset: BaseSegDataset) -> dict[str, tuple[int, int, int]]:
    """The classes and colours of a labelmap.txt in or beside the folder of masks; empty if there is none."""
    masks = Path(dataset.data_prefix.get('seg_map_path') or '.')
    for folder in (masks, masks.parent, Path(dataset.data_root or '.')):
        if (folder / 'labelmap.txt').is_file():
            try:
                return read_labelmap(folder / 'labelmap.txt')
            except UserError:
                return {}
    return {}


def check_labels(dataset: BaseSegDataset, found: dict[str, set[int]]) -> Iterator[Problem]:
    """Find pixel values that belong to no class of the config.

    Args:
        dataset: The data set that has the label maps.
        found: By file: the values of its pixels.
    """
    names, known = dataset.metainfo['classes'], dataset.label_map
    classes = len(names)
    offset = 1 if dataset.reduce_zero_label else 0  # pixel value of class 0
    fitting = _fitting_values(set().union(*found.values()), names)
    for path, values in found.items():
        unknown = [value for value in sorted(values) if not _is_known(value, classes, known, offset)]
        if not unknown:
            continue
        detail = f'it has the values {_listed(unknown)}; '
        if known:
            of_classes = [value + offset for value, label in known.items() if label < classes]
            yield Problem(
                path,
                'pixel value of no class',
                f'{detail}those of classes are {_listed(of_classes)}',
                'if it is a JPEG file or was resized smoothly, write it again as PNG, by the nearest pixel; otherwise '
                'name a class for the value, or ignore it by ignored_values',
            )
        else:
            yield Problem(
                path,
                'label at or above the number of classes',
                f'{detail}{classes} classes and reduce_zero_label={dataset.reduce_zero_label} allow 0 to '
                f'{classes - 1 + offset}, and {IGNORED} for none',
                fitting or f'{NUMBERING}; a JPEG file cannot hold labels',
            )


def check_classes(dataset: BaseSegDataset, labels: set[int]) -> Iterator[Problem]:
    """Find classes that no label map has. ADE20K's need not all occur, since a part of it may have been chosen.

    Args:
        dataset: The data set that has the label maps.
        labels: The labels in all of them, as training reads them.
    """
    folder, classes = dataset.data_prefix['seg_map_path'], dataset.metainfo['classes']
    lacking = [name for label, name in enumerate(classes) if label not in labels]
    if len(lacking) == len(classes):
        detail = f'all pixels of all of them are ignored, as label {IGNORED} is'
        fix = 'export the masks again, with the index of its class in each pixel'
        yield Problem(folder, 'label maps without any class', detail, fix)
    elif classes != type(dataset).METAINFO.get('classes'):
        fix = 'add masks that have it, or leave it out of metainfo.classes in every data set, and lower num_classes'
        if dataset.test_mode:
            fix = 'add masks that have it: until then, mIoU leaves it out, or counts 0 if one pixel is predicted as it'
        for name in lacking:
            yield Problem(folder, 'class that no label map has', repr(name), fix)


def background(classes: Sequence[str]) -> str:
    """Say how to name the background as the first class."""
    named = tuple(dict.fromkeys(('background', *classes)))
    return (
        f'name the background, too: set metainfo=dict(classes={named}) in every data set, and '
        f'num_classes={len(named)} in the heads'
    )


def _fitting_values(values: set[int], classes: Sequence[str]) -> str | None:
    """The setting for label maps of which the values show the classes; otherwise ``None``.

    They have as many values as there are classes, or one more: 0, for a background that the config does not name.
    """
    for candidate in (values, values - {IGNORED}):
        if len(candidate) == len(classes) <= MAX_LISTED:
            return f"set type='FolderDataset', values={tuple(sorted(candidate))} in the data set"
    if values - {IGNORED} == set(range(len(classes) + 1)):
        fix = f'if 0 is the background, {background(classes)}'
        return fix if len(classes) == 1 else f'{fix}; if 0 is to be ignored, {NUMBERING}'
    return None


def _is_known(value: int, classes: int, known: dict[int, int] | None, offset: int) -> bool:
    """Whether a pixel value is that of a class or is ignored, as mmseg's LoadAnnotations reads it.

    Args:
        value: Pixel value in the file.
        classes: Number of classes.
        known: mmseg's label map, from the label in the file to that of the config.
        offset: 1 with ``reduce_zero_label``, otherwise 0.
    """
    if value == IGNORED or value < offset:
        label = IGNORED
    else:
        label = value - offset
    if known and label in known:
        label = known[label]
    elif known and label != IGNORED:
        return False  # mmseg leaves this label as it is, and it may then be taken for another class
    return label < classes or label == IGNORED


def check_numbering(folders: str, values: set[int], classes: Sequence[str], reduced: bool) -> Iterator[Problem]:
    """Find wrong numberings from the values in all label maps together, where mmseg's ``label_map`` maps no labels.

    With ``reduce_zero_label``, value v is class v - 1, and 0 is ignored: the values go from 0 to the number of classes.
    Label maps that number their classes from 0 have all values below the number of classes, but not this number itself:
    class 0 would be ignored, and each other class would be taken for the one before it. Conversely, without
    ``reduce_zero_label``, label maps that number their classes from 1 go up to the number of classes, one too many.

    Args:
        folders: Names of the folders with the label maps.
        values: The pixel values in all of them.
        classes: Names of the classes.
        reduced: The value of ``reduce_zero_label``.
    """
    used, number = values - {IGNORED}, len(classes)
    if values == {0, IGNORED}:
        zero = 'ignored, too' if reduced else 'the only class'
        fix = 'use FolderDataset with values=(0, 255), or write 1 instead of 255'
        if number == 1:
            fix += f', and {background(classes)}'
        yield Problem(
            folders,
            'masks of 0 and 255',
            f'there is no other value, {IGNORED} is ignored, and 0 is {zero}',
            fix,
        )
    elif reduced and used == set(range(number)):
        yield Problem(
            folders,
            'classes numbered from 0 with reduce_zero_label=True',
            f'the values go from 0 to {number - 1}: 0 is ignored, and {number}, the last class, never occurs',
            NUMBERING,
        )
    elif not reduced and used and max(used) == number:
        yield Problem(
            folders,
            'classes numbered from 1 with reduce_zero_label=False',
            f'the values go up to {number}, and the last of {number} classes is {number - 1}',
            _fitting_values(used, classes) or NUMBERING,
        )


def _listed(values: Sequence[int]) -> str:
    listed = ', '.join(map(str, values[:5]))
    if len(values) > 5:
        listed += f' and {len(values) - 5} more'
    return listed
