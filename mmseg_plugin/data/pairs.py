"""Which mask belongs to which image, by the names of the files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import path as osp

from mmengine import fileio
from mmseg.datasets import BaseSegDataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from mmengine_plugin.data.folders import files_below
from mmengine_plugin.data.image_checks import Problem

from .pair_problems import FolderFiles, left_out, missing_places, no_images, unusable, without_mask
from .suggestions import LOSSLESS, Suffixes


@dataclass
class Pairs:
    """The images of a data set, and their masks.

    Attributes:
        files: Path of each image, and of its mask; ``None`` for each mask if the data set has no masks.
        problems: What keeps images from being used. Training refuses the first of them.
        unused_masks: Paths of the masks without an image, if there are no problems. Training leaves them out.
    """

    files: list[tuple[str, str | None]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unused_masks: list[str] = field(default_factory=list)


def find_pairs(dataset: BaseSegDataset) -> Pairs:
    """List the images of a data set and their masks. Each folder is read once.

    A name without its suffix is the same for an image and its mask. Without ``img_suffix``, the suffix is the ending of
    any image file; without ``seg_map_suffix``, it is any ending of a format without losses. Upper and lower case of
    suffixes do not matter. If images and masks share a folder and a file has both suffixes, the longer one decides.
    Without suffixes, JPEG files in such a folder are images, and the others are masks.

    Args:
        dataset: A data set with ``data_prefix``, ``img_suffix``, ``seg_map_suffix``, ``ann_file`` and ``backend_args``.
    """
    problems = list(missing_places(dataset))
    if problems:
        return Pairs(problems=problems)
    files = _read_folders(dataset)
    if not files.images:
        return Pairs(problems=[no_images(files)])
    if dataset.ann_file:
        chosen, problems = _read_list(dataset, files)
    else:
        chosen, problems = list(files.images.items()), list(left_out(files))
    pairs, missing = Pairs(problems=problems), []
    for stem, names in chosen:
        image = osp.join(files.folder, names[0])
        masks = [] if files.masks is None else files.masks.get(stem, [])
        if len(names) > 1:
            detail, fix = f'it has {" and ".join(names)}', 'remove or rename all but one, or set img_suffix'
            pairs.problems.append(Problem(osp.join(files.folder, stem), 'two images of one name', detail, fix))
        elif files.masks is None:
            pairs.files.append((image, None))
        elif not masks:
            missing.append((stem, image))
        elif len(masks) > 1:
            detail = f'{files.mask_folder} has {" and ".join(masks)}'
            fix = 'remove or rename all but one, or set seg_map_suffix'
            pairs.problems.append(Problem(image, 'two masks for one image', detail, fix))
        else:
            mask = osp.join(files.mask_folder, masks[0])
            pairs.files.append((image, mask))
            pairs.problems += unusable(mask)
    if missing:
        pairs.problems += without_mask(files, missing, len(pairs.files))
    if not dataset.ann_file:
        pairs.files.sort()
        if not pairs.problems:
            pairs.unused_masks = _unused_masks(files)
    return pairs


def _read_folders(dataset: BaseSegDataset) -> FolderFiles:
    """List the files of both folders, and group them by their names without suffixes."""
    folder, mask_folder = dataset.data_prefix['img_path'], dataset.data_prefix.get('seg_map_path')
    img_suffix, seg_map_suffix = dataset.img_suffix, dataset.seg_map_suffix
    names = _files(folder, dataset.backend_args)
    if mask_folder is None:
        mask_names, masks = [], None
        images = _by_stem(names, img_suffix, IMG_EXTENSIONS)
    elif osp.normpath(folder) == osp.normpath(mask_folder):
        mask_names = names
        image_part, mask_part = _divide(names, img_suffix, seg_map_suffix)
        images = _by_stem(image_part, img_suffix, IMG_EXTENSIONS)
        masks = _by_stem(mask_part, seg_map_suffix, LOSSLESS)
    else:
        names = _outside(names, folder, mask_folder)
        mask_names = _outside(_files(mask_folder, dataset.backend_args), mask_folder, folder)
        images = _by_stem(names, img_suffix, IMG_EXTENSIONS)
        masks = _by_stem(mask_names, seg_map_suffix, LOSSLESS)
    return FolderFiles(folder, mask_folder, names, mask_names, images, masks, img_suffix, seg_map_suffix)


def _files(folder: str, backend_args: dict | None) -> list[str]:
    """The names of all files below a folder, sorted, without hidden ones."""
    if backend_args is None:
        names = files_below(folder)
    else:
        names = fileio.list_dir_or_file(folder, list_dir=False, recursive=True, backend_args=backend_args)
    return sorted(name for name in names if not osp.basename(name).startswith('.'))


def _outside(names: Sequence[str], folder: str, other: str) -> list[str]:
    """The names of files in a folder that are not in the other folder, which may lie within the first."""
    inner = osp.relpath(other, folder) + osp.sep
    return [name for name in names if not name.startswith(inner)]


def _suffix(name: str, suffixes: Suffixes, default: Sequence[str]) -> str:
    """The longest of some suffixes that a name has, as the name spells it, or an empty string."""
    endings = (suffixes,) if isinstance(suffixes, str) else suffixes or default
    length = max((len(ending) for ending in endings if name.lower().endswith(ending.lower())), default=0)
    return name[len(name) - length :]


def _by_stem(names: Sequence[str], suffixes: Suffixes, default: Sequence[str]) -> dict[str, list[str]]:
    """The names that have one of the suffixes, by the name without it."""
    stems: dict[str, list[str]] = {}
    for name in names:
        if suffix := _suffix(name, suffixes, default):
            stems.setdefault(name[: -len(suffix)], []).append(name)
    return stems


def _divide(names: Sequence[str], img_suffix: Suffixes, seg_map_suffix: Suffixes) -> tuple[list[str], list[str]]:
    """Divide the files of one folder into images and masks."""
    masks_first = seg_map_suffix is not None or img_suffix is None  # if the suffixes are equally long
    images, masks = [], []
    for name in names:
        of_image = len(_suffix(name, img_suffix, IMG_EXTENSIONS))
        of_mask = len(_suffix(name, seg_map_suffix, LOSSLESS))
        if of_mask > of_image or (of_mask == of_image and masks_first):
            masks.append(name)
        else:
            images.append(name)
    return images, masks


def _read_list(dataset: BaseSegDataset, files: FolderFiles) -> tuple[list[tuple[str, list[str]]], list[Problem]]:
    """The images that ``ann_file`` lists, with or without their suffix, and the lines that name no image."""
    entries, chosen, problems = {}, [], []
    for stem, names in files.images.items():
        for name in names:
            entries[osp.splitext(name)[0]] = (stem, names)
    for stem, names in files.images.items():  # the name without its whole suffix comes first, and then the full name
        entries[stem] = (stem, names)
        for name in names:
            entries[name] = (stem, [name])
    lines = fileio.get_text(dataset.ann_file, encoding='utf-8-sig', backend_args=dataset.backend_args).splitlines()
    for number, line in enumerate(lines, 1):
        name = line.strip().replace('\\', osp.sep)
        if name in entries:
            chosen.append(entries[name])
        elif name:
            detail = f'line {number} is {name!r}, and {files.folder} has no such image'
            fix = 'write one name in each line, as seen from img_path, with or without its ending'
            problems.append(Problem(dataset.ann_file, 'listed image that is not there', detail, fix))
    if not chosen and not problems:
        problems.append(Problem(dataset.ann_file, 'nothing to train on', 'it lists no image', 'leave out ann_file'))
    return chosen, problems


def _unused_masks(files: FolderFiles) -> list[str]:
    """Masks without an image. A name such as ``a_preview.png`` is no mask if there is an image ``a``."""
    unused = []
    for stem, names in (files.masks or {}).items():
        longer = any(stem[:i] in files.images for i, character in enumerate(stem) if character == '_')
        if stem not in files.images and not longer:
            unused += [osp.join(files.mask_folder, name) for name in names]
    return unused
