"""Find all problems of folders of images and label maps. Training would not notice most of them."""

from collections.abc import Iterator, Sequence
from functools import partial
from os import path as osp
from pathlib import Path

import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine import fileio
from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image

from backbones.errors import UserError
from mmengine_plugin.data.image_checks import Problem, check_all, check_image, load_image, transform_of

IGNORED = 255  # the label that losses and metrics leave out
NUMBERING = 'set reduce_zero_label, in the data set and in LoadAnnotations, and the classes as the label maps have them'


def check(datasets: Sequence[BaseSegDataset]) -> list[Problem]:
    """Find all problems of images and label maps, one by one and together.

    Args:
        datasets: Data sets that were built with ``lazy_init=True``, so that none has refused anything yet.

    Returns:
        The problems, in the order of the data sets.

    Raises:
        UserError: If one of the data sets is not a BaseSegDataset of mmseg.
    """
    problems: list[Problem] = []
    # folders of label maps and the values in them, by the number of classes and reduce_zero_label
    numbered_alike: dict[tuple[int, bool], tuple[list[str], set[int]]] = {}
    for dataset in datasets:
        if not isinstance(dataset, BaseSegDataset):
            raise UserError(f'cannot check {type(dataset).__name__}: it is not a BaseSegDataset of mmseg')
        found, values = _check_dataset(dataset)
        problems += found
        if not dataset.label_map:
            numbering = (len(dataset.metainfo['classes']), dataset.reduce_zero_label)
            folders, all_values = numbered_alike.setdefault(numbering, ([], set()))
            folders.append(dataset.data_prefix.get('seg_map_path') or '')
            all_values |= values
    for (classes, reduced), (folders, values) in numbered_alike.items():
        problems += _check_values(', '.join(dict.fromkeys(folders)), values, classes, reduced)
    return problems


def _check_dataset(dataset: BaseSegDataset) -> tuple[list[Problem], set[int]]:
    """The problems of folders and files, and the values that occur in the label maps."""
    problems, values = list(_missing_places(dataset)), set()
    if problems:
        return problems, values
    folder, label_folder = dataset.data_prefix['img_path'], dataset.data_prefix.get('seg_map_path')
    pairs = BaseSegDataset.load_data_list(dataset)  # our subclasses stop at the first missing file
    if not pairs:
        detail = f'it has no image that ends in {dataset.img_suffix!r}'
        problems.append(Problem(folder, 'nothing to train on', detail, 'put images there, or set img_suffix'))
    if not dataset.ann_file:  # a list of images would leave out other files on purpose
        problems += _check_names(dataset, pairs)
    image_loader, label_loader = transform_of(dataset, LoadImageFromFile), transform_of(dataset, LoadAnnotations)
    reduced = label_loader.reduce_zero_label
    if reduced is not None and reduced != dataset.reduce_zero_label:
        detail = f'LoadAnnotations has {reduced}, and the data set has {dataset.reduce_zero_label}'
        fix = 'set the same value for both'
        problems.append(Problem(label_folder or folder, 'two values of reduce_zero_label', detail, fix))
    check_one = partial(_check_pair, dataset, image_loader, label_loader)
    for found, occurring in check_all(check_one, pairs, folder):
        problems += found
        values |= occurring
    return problems, values


def _missing_places(dataset: BaseSegDataset) -> Iterator[Problem]:
    """The folders and the list of images that do not exist."""
    exists = {}
    for path in (dataset.data_prefix.get('img_path'), dataset.data_prefix.get('seg_map_path')):
        if path:
            exists[path] = fileio.isdir(path, backend_args=dataset.backend_args)
    if dataset.ann_file:
        exists[dataset.ann_file] = fileio.exists(dataset.ann_file, backend_args=dataset.backend_args)
    for path, there in exists.items():
        if not there:
            yield Problem(
                path,
                'missing folder or list of images',
                f'it is not there, seen from {Path.cwd()}',
                'put or link it there, or set data_root, data_prefix and ann_file in the data loaders of the config',
            )


def _check_names(dataset: BaseSegDataset, pairs: list[dict]) -> Iterator[Problem]:
    """Find files that look as if they belonged to the data set, but do not."""
    used = {pair['img_path'] for pair in pairs} | {pair.get('seg_map_path') for pair in pairs}
    for path in _files(dataset, 'img_path', tuple(Image.registered_extensions())):
        if path not in used:
            yield Problem(
                path,
                'image that img_suffix leaves out',
                f'img_suffix is {dataset.img_suffix!r}',
                'set img_suffix in the data loaders to the one ending of all images, or rename the file',
            )
    for path in _files(dataset, 'seg_map_path', dataset.seg_map_suffix):
        if path not in used:
            yield Problem(
                path,
                'label map without an image',
                f'no image with this name ends in {dataset.img_suffix!r}',
                'put the image there, or remove the label map',
            )


def _files(dataset: BaseSegDataset, prefix: str, endings: str | tuple[str, ...]) -> Iterator[str]:
    """The files of a data set's folder that have one of the endings."""
    folder = dataset.data_prefix.get(prefix)
    if not folder:
        return
    for name in fileio.list_dir_or_file(folder, False, recursive=True, backend_args=dataset.backend_args):
        if name.lower().endswith(endings):
            yield osp.join(folder, name)


def _check_pair(
    dataset: BaseSegDataset, image_loader: BaseTransform, label_loader: BaseTransform, pair: dict
) -> tuple[list[Problem], set[int]]:
    """The problems of an image and its label map, and the values that occur in the label map."""
    problems, values, size = [], set(), None
    path = pair.get('seg_map_path')
    if path:
        labels = load_image(path, 'unchanged', label_loader)
        if isinstance(labels, Problem):
            problems.append(labels)
        else:
            size = labels.pixels.shape[:2]
            found, values = _check_label_map(path, labels.pixels, dataset)
            problems += found
    problems += check_image(pair['img_path'], image_loader, size, 'its label map has')
    return problems, values


def _check_label_map(path: str, pixels: np.ndarray, dataset: BaseSegDataset) -> tuple[list[Problem], set[int]]:
    """The problems of a label map, and the values that occur in it; no values if it is not a label map of 8 bits."""
    if pixels.ndim > 2:
        detail = f'it has {pixels.shape[2]} channels'
        fix = 'write the number of the class to each pixel, in one channel of 8 bits'
        return [Problem(path, 'coloured label map', detail, fix)], set()
    if pixels.max() > 255:
        detail = f'it has the value {pixels.max()}, and mmseg keeps only the lowest 8 bits'
        fix = 'write it with 8 bits, and at most 255 classes'
        return [Problem(path, 'label map of more than 8 bits', detail, fix)], set()
    counts = np.bincount(pixels.astype(np.uint8).ravel())  # much faster than np.unique
    values = set(np.flatnonzero(counts).tolist())
    return list(_check_labels(path, values, dataset)), values


def _check_labels(path: str, values: set[int], dataset: BaseSegDataset) -> Iterator[Problem]:
    """Find pixel values that belong to no class of the config."""
    classes, known = len(dataset.metainfo['classes']), dataset.label_map
    offset = 1 if dataset.reduce_zero_label else 0  # pixel value of class 0
    unknown = [value for value in sorted(values) if not _is_known(value, classes, known, offset)]
    if not unknown:
        return
    found = f'it has the values {_listed(unknown)}; '
    if known:
        of_classes = [value + offset for value, label in known.items() if label < classes]
        yield Problem(
            path,
            'pixel value of no class',
            f'{found}those of classes are {_listed(of_classes)}',
            'if it is a JPEG file or was resized smoothly, write it again as PNG, by the nearest pixel; otherwise name '
            'a class for the value',
        )
    else:
        yield Problem(
            path,
            'label at or above the number of classes',
            f'{found}{classes} classes and reduce_zero_label={dataset.reduce_zero_label} allow 0 to '
            f'{classes - 1 + offset}, and {IGNORED} for none',
            f'{NUMBERING}; a JPEG file cannot hold labels',
        )


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


def _check_values(folders: str, values: set[int], classes: int, reduced: bool) -> Iterator[Problem]:
    """Find wrong numberings from the values in all label maps together, where mmseg's ``label_map`` maps no labels.

    With ``reduce_zero_label``, value v is class v - 1, and 0 is ignored: the values go from 0 to the number of classes.
    Label maps that number their classes from 0 have all values below the number of classes, but not this number itself:
    class 0 would be ignored, and each other class would be taken for the one before it. Conversely, without
    ``reduce_zero_label``, label maps that number their classes from 1 go up to the number of classes, one too many.
    """
    used = values - {IGNORED}
    if IGNORED in values and used <= {0}:
        zero = 'ignored, too' if reduced else 'the only class'
        yield Problem(
            folders,
            'masks of 0 and 255',
            f'there is no other value, {IGNORED} is ignored, and 0 is {zero}',
            'use FolderDataset with values=(0, 255), or write 1 instead of 255',
        )
    elif reduced and used == set(range(classes)):
        yield Problem(
            folders,
            'classes numbered from 0 with reduce_zero_label=True',
            f'the values go from 0 to {classes - 1}: 0 is ignored, and {classes}, the last class, never occurs',
            NUMBERING,
        )
    elif not reduced and used and max(used) == classes:
        yield Problem(
            folders,
            'classes numbered from 1 with reduce_zero_label=False',
            f'the values go up to {classes}, and the last of {classes} classes is {classes - 1}',
            NUMBERING,
        )


def _listed(values: list[int]) -> str:
    listed = ', '.join(map(str, values[:5]))
    if len(values) > 5:
        listed += f' and {len(values) - 5} more'
    return listed
