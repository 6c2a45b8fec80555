"""Why images and masks in folders do not belong together, and the setting that would make them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import path as osp
from pathlib import Path

from mmengine import fileio
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations
from torchvision.datasets.folder import IMG_EXTENSIONS, is_image_file

from mmengine_plugin.data.image_checks import Problem

from .suggestions import JPEG, LOSSLESS, Suffixes, suggest_folders, suggest_suffixes


@dataclass(frozen=True)
class FolderFiles:
    """The files of a data set, by their names relative to the folders.

    Attributes:
        folder: Folder of the images.
        mask_folder: Folder of the masks, perhaps the same one; ``None`` if the data set has no masks.
        names: All files in ``folder``.
        mask_names: All files in ``mask_folder``.
        images: The names of images, by the name without its suffix.
        masks: The names of masks, by the name without its suffix; ``None`` if the data set has no masks.
        img_suffix: The suffixes that images must have, or ``None``.
        seg_map_suffix: The suffixes that masks must have, or ``None``.
    """

    folder: str
    mask_folder: str | None
    names: list[str]
    mask_names: list[str]
    images: dict[str, list[str]]
    masks: dict[str, list[str]] | None
    img_suffix: Suffixes
    seg_map_suffix: Suffixes

    @property
    def one_folder(self) -> bool:
        """Whether images and masks are in the same folder."""
        return self.mask_folder is not None and osp.normpath(self.folder) == osp.normpath(self.mask_folder)


def missing_places(dataset: BaseSegDataset) -> Iterator[Problem]:
    """Find folders and lists of images that are not there, and a missing setting for the folder of masks."""
    for key in ('img_path', 'seg_map_path'):
        place = dataset.data_prefix.get(key)
        if place is None and (key == 'img_path' or _loads_masks(dataset)):
            fix = (
                suggest_folders(dataset.data_root)
                or 'set data_prefix=dict(img_path=..., seg_map_path=...) in the data set'
            )
            yield Problem(dataset.data_root or 'data_root', 'missing folder', f'data_prefix has no {key}', fix)
        elif place is not None and not fileio.isdir(place, backend_args=dataset.backend_args):
            fix = suggest_folders(dataset.data_root)
            fix = fix or 'put or link the data there, or set data_root and data_prefix in the data set'
            yield Problem(place, 'missing folder', f'{key} is not there, seen from {Path.cwd()}', fix)
    if dataset.ann_file and not fileio.isfile(dataset.ann_file, backend_args=dataset.backend_args):
        detail, fix = f'ann_file is not there, seen from {Path.cwd()}', 'put it there, or leave out ann_file'
        yield Problem(dataset.ann_file, 'missing list of images', detail, fix)


def _loads_masks(dataset: BaseSegDataset) -> bool:
    return any(isinstance(step, LoadAnnotations) for step in dataset.pipeline.transforms)


def no_images(files: FolderFiles) -> Problem:
    """Say that no file is an image."""
    ending = f'image that ends in {files.img_suffix!r}' if files.img_suffix else 'image file without a mask suffix'
    fix = suggest_suffixes(files.names, files.mask_names) or 'put images there, or set data_prefix and img_suffix'
    others = sorted({osp.splitext(name)[1] for name in files.names if is_image_file(name)})
    if files.masks is None and others:
        fix = f'leave out img_suffix: the images there end in {", ".join(others)}'
    return Problem(files.folder, 'nothing to train on', f'it has no {ending}', fix)


def left_out(files: FolderFiles) -> Iterator[Problem]:
    """Find files without the suffix of images that have a mask, or are images of a data set without masks."""
    used = {name for names in files.images.values() for name in names}
    if files.one_folder:
        used |= {name for names in files.masks.values() for name in names}
    endings = [files.img_suffix] if isinstance(files.img_suffix, str) else list(files.img_suffix or [''])
    for name in files.names:
        stem, ending = osp.splitext(name)
        readable = ending.lower() in IMG_EXTENSIONS
        for mark in {suffix.rpartition('.')[0] for suffix in endings}:  # '_sat' of '_sat.jpg'
            key = stem.removesuffix(mark)
            sample = readable if files.masks is None else key in files.masks and key not in files.images
            if name not in used and stem.endswith(mark) and sample:
                detail, fix = f'img_suffix is {files.img_suffix!r}', 'convert it to PNG or JPEG'
                if readable:
                    fix = f'set img_suffix={tuple(dict.fromkeys([*endings, mark + ending]))}'
                yield Problem(osp.join(files.folder, name), 'image that img_suffix leaves out', detail, fix)


def without_mask(files: FolderFiles, missing: Sequence[tuple[str, str]], found: int) -> Iterator[Problem]:
    """Say why images have no mask.

    Args:
        files: The files of the data set.
        missing: For each of these images, the name without suffix, and the path.
        found: Number of images that have a mask.
    """
    suffixes = suggest_suffixes(files.names, files.mask_names, better_than=found)
    endings = files.seg_map_suffix or '.png'
    if not isinstance(endings, str):
        endings = endings[0]
    images = {path for _, path in missing}
    others = {osp.splitext(name)[0]: osp.join(files.mask_folder, name) for name in files.mask_names}
    for stem, image in missing:
        other = others.get(stem, image)
        if other not in images and (problems := list(unusable(other))):
            yield from problems
        else:
            fix = suffixes or 'put the mask there, or remove the image'
            yield Problem(image, 'image without a mask', f'{files.mask_folder} has no {stem}{endings}', fix)


def unusable(mask: str) -> Iterator[Problem]:
    """Say what is wrong with the format of a mask, by its name, if anything is."""
    ending = osp.splitext(mask)[1].lower()
    if ending in JPEG:
        fix = 'export the masks again as PNG: JPEG changes the values of pixels'
        yield Problem(mask, 'mask saved as JPEG', 'it cannot hold labels', fix)
    elif ending not in (*IMG_EXTENSIONS, *LOSSLESS):
        fix = 'write it as a PNG mask, as tools/convert_dataset.py does'
        yield Problem(mask, 'mask that is not an image', f'{ending} is no image format', fix)
