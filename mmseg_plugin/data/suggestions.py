"""Settings that fit the files of images and masks that are there."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import islice
from os import path as osp

from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension

JPEG = ('.jpg', '.jpeg')
LOSSLESS = ('.png', '.bmp', '.tif', '.tiff', '.gif', '.pgm', '.ppm')
NEAREST = 6  # names of masks that are tried for one image
WALKED = 1000  # folders that are searched, so that a wrong data_root such as / takes no time
FEW = 40  # folders, among which a folder of masks may have any name
TRIED_PAIRS = 2000  # folders of images and masks that are compared, so that many folders take no time
MASK_WORDS = re.compile('mask|label|annotation|seg|(^|[^a-z])(gt|ann|anno|target)s?([^a-z]|$)', re.IGNORECASE)
OTHER_WORDS = re.compile('colou?r|instance|edge|polygon|vis|overlay', re.IGNORECASE)

Suffixes = str | Sequence[str] | None  # ends of names; None for any ending of an image file


def suggest_suffixes(images: Sequence[str], masks: Sequence[str], better_than: int = 0) -> str | None:
    """Find the suffixes by which most masks belong to an image.

    Args:
        images: Names of the files in the folder of images, relative to it.
        masks: The same for masks; the same names if they share the folder.
        better_than: Number of images that have a mask without a suggestion.

    Returns:
        A sentence with ``img_suffix`` and ``seg_map_suffix`` to paste, or ``None`` if no suffixes fit.
    """
    images, masks = _image_files(images), _image_files(masks)
    existing, counts = set(masks), {}
    for image in images[:: max(1, len(images) // 3)]:
        near = sorted((mask for mask in masks if mask != image), key=lambda mask: -len(_stem(image, mask)))
        for mask in near[:NEAREST]:
            stem = _stem(image, mask)
            suffixes = image[len(stem) :], mask[len(stem) :]
            if not osp.basename(stem) or any(suffix[:1].isdigit() for suffix in suffixes) or suffixes in counts:
                continue
            stems = [name.removesuffix(suffixes[0]) for name in images if name.endswith(suffixes[0])]
            counts[suffixes] = sum(stem + suffixes[1] in existing for stem in stems)
    if images == masks:  # either file of a pair may be the mask
        counts = {tuple(sorted(pair, key=_likeness_to_mask)): count for pair, count in counts.items()}
    best = max(
        counts,
        key=lambda pair: (counts[pair], not OTHER_WORDS.search(pair[1]), _likeness_to_mask(pair[1])),
        default=None,
    )
    if best is None or counts[best] <= better_than:
        return None
    return f'set img_suffix={best[0]!r}, seg_map_suffix={best[1]!r} in the data set'


def suggest_folders(root: str | None) -> str | None:
    """Find the folders of images and of masks whose files have the same names.

    Args:
        root: The folder that has both, ``data_root``.

    Returns:
        A sentence with ``data_prefix`` to paste, or ``None`` if there are no such folders.
    """
    if root is None:
        return None
    stems, jpegs = {}, set()
    for folder, _, files in islice(os.walk(root), WALKED):
        names = _image_files(files)
        if names:
            place = osp.relpath(folder, root)
            stems[place] = {osp.splitext(name)[0] for name in names}
            if any(name.lower().endswith(JPEG) for name in names):
                jpegs.add(place)
    named = {place for place in stems if MASK_WORDS.search(place)}
    mask_folders = sorted(stems.keys() - jpegs, key=lambda place: (place not in named, place))
    if len(stems) > FEW:  # such as those of videos, whose frames have the same names in all folders
        mask_folders = [place for place in mask_folders if place in named]
    image_folders = [place for place in stems if place in jpegs or place not in named]
    pairs = ((images, masks) for masks in mask_folders for images in image_folders if images != masks)
    shared = {}
    for images, masks in islice(pairs, TRIED_PAIRS):
        shared[images, masks] = (len(stems[images] & stems[masks]), masks in named)
    best = max(shared, key=shared.get, default=None)
    if best is None or not shared[best][0]:
        return None
    return f'set data_prefix=dict(img_path={best[0]!r}, seg_map_path={best[1]!r})'


def _image_files(names: Sequence[str]) -> list[str]:
    return [name for name in names if has_file_allowed_extension(name, (*IMG_EXTENSIONS, *LOSSLESS))]


def _stem(image: str, mask: str) -> str:
    """What two names have in common, up to the last separator if they differ within a word."""
    common = osp.commonprefix([image, mask])
    rest = image[len(common) : len(common) + 1] + mask[len(common) : len(common) + 1]
    if rest.isalnum():
        common = re.sub('[^._ /-]*$', '', common)
    return common.rstrip('._ -')


def _likeness_to_mask(suffix: str) -> tuple[bool, bool, int]:
    """A key by which suffixes of masks come after those of images."""
    lossy = suffix.lower().endswith(JPEG)
    return not lossy, bool(MASK_WORDS.search(suffix)), len(suffix)
