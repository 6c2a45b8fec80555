"""Find all problems of folders of images and label maps. Training would not notice most of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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

from .check_labels import check_classes, check_colors, check_labels, check_numbering, count_colors
from .datasets import FolderDataset
from .load_masks import LoadMasks, has_colors, label_table, read_colors, to_values
from .pairs import find_pairs


@dataclass
class Finding:
    """What was found in an image and its label map.

    Attributes:
        problems: The problems of both.
        values: The pixel values of the label map; empty if it has no usable ones.
        labels: The labels of a label map that has a colour for each class; otherwise empty.
        colors: The number of pixels of each packed colour; empty if the label map is not coloured by mistake.
    """

    problems: list[Problem] = field(default_factory=list)
    values: set[int] = field(default_factory=set)
    labels: set[int] = field(default_factory=set)
    colors: Counter[int] = field(default_factory=Counter)


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
    sound: list[tuple[BaseSegDataset, set[int]]] = []  # data sets whose label maps can be read, and their labels
    # folders of label maps and the values in them, by the classes and reduce_zero_label
    numbered_alike: dict[tuple[tuple[str, ...], bool], tuple[list[str], set[int]]] = {}
    for dataset in datasets:
        if not isinstance(dataset, BaseSegDataset):
            raise UserError(f'cannot check {type(dataset).__name__}: it is not a BaseSegDataset of mmseg')
        found, values, labels = _check_dataset(dataset)
        problems += found
        if labels is not None:
            sound.append((dataset, labels))
        if not dataset.label_map:
            numbering = (tuple(dataset.metainfo['classes']), dataset.reduce_zero_label)
            folders, all_values = numbered_alike.setdefault(numbering, ([], set()))
            folders.append(dataset.data_prefix.get('seg_map_path') or '')
            all_values |= values
    misnumbered = [
        problem
        for (classes, reduced), (folders, values) in numbered_alike.items()
        for problem in check_numbering(', '.join(dict.fromkeys(folders)), values, classes, reduced)
    ]
    problems += misnumbered
    if not misnumbered:
        for dataset, labels in sound:
            problems += check_classes(dataset, labels)
    return problems


def _check_dataset(dataset: BaseSegDataset) -> tuple[list[Problem], set[int], set[int] | None]:
    """Check folders and files.

    Returns:
        The problems, the pixel values that occur in the label maps, and their labels as training reads them. The last
        is ``None`` if there are problems or no label maps.
    """
    folder, label_folder = dataset.data_prefix.get('img_path'), dataset.data_prefix.get('seg_map_path')
    if isinstance(dataset, FolderDataset):
        pairs = find_pairs(dataset)
        problems, files = pairs.problems, pairs.files
        problems += [_without_image(path, 'no image has this name') for path in pairs.unused_masks]
    else:
        problems, files = _list_stock_files(dataset)
    image_loader, label_loader = transform_of(dataset, LoadImageFromFile), transform_of(dataset, LoadAnnotations)
    reduced = label_loader.reduce_zero_label
    if reduced is not None and reduced != dataset.reduce_zero_label:
        detail = f'LoadAnnotations has {reduced}, and the data set has {dataset.reduce_zero_label}'
        fix = 'set the same value for both'
        problems.append(Problem(label_folder or folder, 'two values of reduce_zero_label', detail, fix))
    check_one = partial(_check_pair, image_loader, label_loader)
    findings = check_all(check_one, files, folder or '')
    for finding in findings:
        problems += finding.problems
    paths = [path for _, path in files]
    problems += check_colors(dataset, {path: f.colors for path, f in zip(paths, findings, strict=True) if f.colors})
    problems += check_labels(dataset, {path: f.values for path, f in zip(paths, findings, strict=True) if f.values})
    values = set().union(*(finding.values for finding in findings))
    if problems or not any(paths):
        return problems, values, None
    table = label_table(dataset.reduce_zero_label, dataset.label_map)
    return problems, values, set(table[sorted(values)].tolist()).union(*(finding.labels for finding in findings))


def _list_stock_files(dataset: BaseSegDataset) -> tuple[list[Problem], list[tuple[str, str | None]]]:
    """The problems of the names of files, and the images and label maps, of mmseg's own data sets."""
    problems = list(_missing_places(dataset))
    if problems:
        return problems, []
    entries = BaseSegDataset.load_data_list(dataset)  # our subclasses stop at the first missing file
    if not entries:
        folder, detail = dataset.data_prefix['img_path'], f'it has no image that ends in {dataset.img_suffix!r}'
        problems.append(Problem(folder, 'nothing to train on', detail, 'put images there, or set img_suffix'))
    if not dataset.ann_file:  # a list of images would leave out other files on purpose
        problems += _check_names(dataset, entries)
    return problems, [(entry['img_path'], entry.get('seg_map_path')) for entry in entries]


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


def _check_names(dataset: BaseSegDataset, entries: list[dict]) -> Iterator[Problem]:
    """Find files that look as if they belonged to the data set, but do not."""
    used = {entry['img_path'] for entry in entries} | {entry.get('seg_map_path') for entry in entries}
    classes = dataset.metainfo['classes']
    for path in _files(dataset, 'img_path', tuple(Image.registered_extensions())):
        if path not in used:
            yield Problem(
                path,
                'image that img_suffix leaves out',
                f'img_suffix is {dataset.img_suffix!r}',
                f"set type='FolderDataset', which reads images of any ending, and metainfo=dict(classes=...) for the "
                f'{len(classes)} classes, or rename the file',
            )
    for path in _files(dataset, 'seg_map_path', dataset.seg_map_suffix):
        if path not in used:
            yield _without_image(path, f'no image with this name ends in {dataset.img_suffix!r}')


def _without_image(path: str, detail: str) -> Problem:
    return Problem(path, 'label map without an image', detail, 'put the image there, or remove the label map')


def _files(dataset: BaseSegDataset, prefix: str, endings: str | tuple[str, ...]) -> Iterator[str]:
    """The files of a data set's folder that have one of the endings."""
    folder = dataset.data_prefix.get(prefix)
    if not folder:
        return
    for name in fileio.list_dir_or_file(folder, False, recursive=True, backend_args=dataset.backend_args):
        if name.lower().endswith(endings):
            yield osp.join(folder, name)


def _check_pair(image_loader: BaseTransform, label_loader: BaseTransform, files: tuple[str, str | None]) -> Finding:
    """Check an image and its label map."""
    (image, labels), size = files, None
    finding = Finding()
    if labels:
        loaded = load_image(labels, 'unchanged', label_loader)
        if isinstance(loaded, Problem):
            finding.problems.append(loaded)
        else:
            size = loaded.pixels.shape[:2]
            finding = _check_label_map(labels, loaded.content, loaded.pixels, label_loader)
    finding.problems += check_image(image, image_loader, size, 'its label map has')
    return finding


def _check_label_map(path: str, content: bytes, pixels: np.ndarray, loader: BaseTransform) -> Finding:
    """Find out whether a file is a label map, and which values or colours it has."""
    if isinstance(loader, LoadMasks) and loader.colors is not None:
        try:
            labels = loader.read_labels(content)
        except UserError as error:
            fix = (
                'add the colour to values and its class to metainfo, or add it to ignored_values; if it occurs at the '
                'borders of objects only, export the masks without smooth edges, and not as JPEG'
            )
            return Finding([Problem(path, 'colour of no class', str(error), fix)])
        return Finding(labels=_distinct(labels))
    if pixels.ndim == 3 and (not isinstance(loader, LoadMasks) or has_colors(pixels)):
        return Finding(colors=count_colors(read_colors(content, loader.imdecode_backend)))
    try:
        values = to_values(pixels)
    except UserError as error:
        fix = 'write it with 8 bits, and at most 255 classes'
        return Finding([Problem(path, 'label map of more than 8 bits', str(error), fix)])
    return Finding(values=_distinct(values))


def _distinct(values: np.ndarray) -> set[int]:
    """The distinct values of an array of uint8, much faster than by np.unique."""
    return set(np.flatnonzero(np.bincount(values.ravel())).tolist())
