"""Every fault of folders of images and label maps, most of which training would not notice."""

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
from mmengine_plugin.faults import Fault, check_image, each, load, transform_of

IGNORED = 255  # the label that neither losses nor metrics count
NUMBERING = 'set reduce_zero_label, in the data set and in LoadAnnotations, and the classes as the label maps have them'


def check(datasets: Sequence[BaseSegDataset]) -> list[Fault]:
    """Find all faults of images and label maps, one by one and together.

    Args:
        datasets: Data sets that were built with ``lazy_init=True``, so that none has refused anything yet.

    Raises:
        UserError: If one is not made of folders as mmseg's BaseSegDataset is.
    """
    faults: list[Fault] = []
    numbered_alike: dict[tuple, tuple[list[str], set[int]]] = {}  # folders of label maps, and the values in them
    for dataset in datasets:
        if not isinstance(dataset, BaseSegDataset):
            raise UserError(f'{type(dataset).__name__} is no BaseSegDataset of mmseg, whose folders can be checked')
        found, values = _check_set(dataset)
        faults += found
        if not dataset.label_map:
            rule = (len(dataset.metainfo['classes']), dataset.reduce_zero_label)
            folders, together = numbered_alike.setdefault(rule, ([], set()))
            folders.append(dataset.data_prefix.get('seg_map_path') or '')
            together |= values
    for (classes, reduced), (folders, values) in numbered_alike.items():
        faults += _check_values(', '.join(dict.fromkeys(folders)), values, classes, reduced)
    return faults


def _check_set(dataset: BaseSegDataset) -> tuple[list[Fault], set[int]]:
    """Faults of folders and files, and the values that occur in the label maps."""
    folders = [dataset.data_prefix[key] for key in ('img_path', 'seg_map_path') if dataset.data_prefix.get(key)]
    missing = [
        Fault(
            path,
            'missing folder or list of images',
            f'it is not there, seen from {Path.cwd()}',
            'put or link it there, or set data_root, data_prefix and ann_file in the data loaders of the config',
        )
        for path in [*folders, dataset.ann_file]
        if path
        and not (fileio.exists if path == dataset.ann_file else fileio.isdir)(path, backend_args=dataset.backend_args)
    ]
    if missing:
        return missing, set()
    pairs = BaseSegDataset.load_data_list(dataset)  # mmseg's; those of our data sets stop at the first missing file
    faults, values = [], set()
    if not pairs:
        what = f'no image that ends in {dataset.img_suffix!r}'
        faults.append(Fault(folders[0], 'nothing to train on', what, 'put images there, or set img_suffix'))
    if not dataset.ann_file:  # which would name the images
        faults += _check_names(dataset, folders, pairs)
    loader, annotations = transform_of(dataset, LoadImageFromFile), transform_of(dataset, LoadAnnotations)
    if annotations.reduce_zero_label not in (None, dataset.reduce_zero_label):
        what = f'LoadAnnotations has {annotations.reduce_zero_label}, the data set {dataset.reduce_zero_label}'
        faults.append(Fault(folders[-1], 'two settings of reduce_zero_label', what, 'set both alike'))
    for found, occurring in each(partial(_check_pair, dataset, loader, annotations), pairs, folders[0]):
        faults += found
        values |= occurring
    return faults, values


def _check_names(dataset: BaseSegDataset, folders: list[str], pairs: list[dict]) -> Iterator[Fault]:
    """Files that a set is not made of, although they look like it."""
    named = {path for pair in pairs for path in (pair['img_path'], pair.get('seg_map_path'))}
    kinds = {
        'image that img_suffix leaves out': (
            tuple(Image.registered_extensions()),
            f'img_suffix is {dataset.img_suffix!r}',
            'set img_suffix in the data loaders to the one ending of all images, or rename the file',
        ),
        'label map without an image': (
            dataset.seg_map_suffix,
            f'no image of its name ends in {dataset.img_suffix!r}',
            'put the image there, or take the label map away',
        ),
    }
    for folder, (kind, (endings, what, cure)) in zip(folders, kinds.items(), strict=False):
        for name in fileio.list_dir_or_file(folder, False, recursive=True, backend_args=dataset.backend_args):
            if osp.join(folder, name) not in named and name.lower().endswith(endings):
                yield Fault(osp.join(folder, name), kind, what, cure)


def _check_pair(
    dataset: BaseSegDataset, loader: BaseTransform, annotations: BaseTransform, pair: dict
) -> tuple[list[Fault], set[int]]:
    """Faults of an image and its label map, and the values that occur in the latter."""
    faults, values, size = [], set(), None
    if path := pair.get('seg_map_path'):
        labels = load(path, 'unchanged', annotations)
        if isinstance(labels, Fault):
            faults.append(labels)
        else:
            pixels = labels.pixels
            size = pixels.shape[:2]
            if pixels.ndim > 2:
                faults.append(
                    Fault(
                        path,
                        'coloured label map',
                        f'it has {pixels.shape[2]} channels',
                        'write the number of the class to each pixel, in one channel of 8 bits',
                    )
                )
            elif pixels.max() > 255:
                faults.append(
                    Fault(
                        path,
                        'label map of more than 8 bits',
                        f'it has the value {pixels.max()}, of which mmseg keeps the lowest 8 bits',
                        'write it with 8 bits, and at most 255 classes',
                    )
                )
            else:
                values = set(np.flatnonzero(np.bincount(pixels.astype(np.uint8).ravel())).tolist())
                faults += _check_labels(path, values, dataset)
    return [*faults, *check_image(pair['img_path'], loader, size, 'its label map has')], values


def _check_labels(path: str, values: set[int], dataset: BaseSegDataset) -> Iterator[Fault]:
    """What no class of the config stands for, as mmseg's LoadAnnotations numbers the classes."""
    classes, known, reduced = len(dataset.metainfo['classes']), dataset.label_map, dataset.reduce_zero_label
    strange = []
    for value in sorted(values):
        label = (IGNORED if value in (0, IGNORED) else value - 1) if reduced else value
        if known:  # mmseg leaves a label that is not in it as it is, even where that is another class
            label = known.get(label, IGNORED if label == IGNORED else classes)
        if label >= classes and label != IGNORED:
            strange.append(value)
    if not strange:
        return
    found = f'it has the values {_listed(strange)}; '
    if known:
        yield Fault(
            path,
            'pixel value of no class',
            f'{found}those of classes are {_listed([v + reduced for v, label in known.items() if label < classes])}',
            'if it is a JPEG file or was resized smoothly, write it again as PNG, by the nearest pixel; otherwise name '
            'a class for the value',
        )
    else:
        yield Fault(
            path,
            'label at or above the number of classes',
            f'{found}{classes} classes and reduce_zero_label={reduced} allow 0 to {classes - 1 + reduced}, and '
            f'{IGNORED} for none',
            f'{NUMBERING}; a JPEG file cannot hold labels',
        )


def _check_values(folders: str, values: set[int], classes: int, reduced: bool) -> Iterator[Fault]:
    """What the values of all label maps together give away, where the data set has no map of its own for them.

    With ``reduce_zero_label``, value v is class v - 1, and 0 is none: values go from 0 to the number of classes. Maps
    that number their classes from 0 hold every value below it, and it never: class 0 is ignored then, and all others
    are taken for the one before. The other way round, without ``reduce_zero_label``, maps that number them from 1 go
    up to the number of classes exactly, which is one too many.
    """
    used = values - {IGNORED}
    if IGNORED in values and used <= {0}:
        yield Fault(
            folders,
            'masks of 0 and 255',
            f'no other value occurs, {IGNORED} is ignored, and 0 is {"ignored, too" if reduced else "all there is"}',
            'use FolderDataset with values=(0, 255), or write 1 instead of 255',
        )
    elif reduced and used == set(range(classes)):
        yield Fault(
            folders,
            'classes numbered from 0 under reduce_zero_label=True',
            f'the values go from 0 to {classes - 1}: 0 is ignored, and {classes}, the last class, never occurs',
            NUMBERING,
        )
    elif not reduced and used and max(used) == classes:
        yield Fault(
            folders,
            'classes numbered from 1 under reduce_zero_label=False',
            f'the values go up to {classes}, and the last of {classes} classes is {classes - 1}',
            NUMBERING,
        )


def _listed(values: list[int]) -> str:
    return ', '.join(map(str, values[:5])) + (f' and {len(values) - 5} more' if len(values) > 5 else '')
