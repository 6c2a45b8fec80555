"""Find all problems of images in folders of classes. Training would not notice most of those of the folders."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config
from PIL import Image, UnidentifiedImageError
from timm.data import get_img_extensions
from timm.data.readers.reader_image_folder import ReaderImageFolder

from backbones.errors import UserError
from mmengine_plugin.checks.class_lists import first_difference
from mmengine_plugin.checks.pipelines import type_name
from mmengine_plugin.data.image_checks import Problem, check_all

from .dataset import TimmDataset


class Finding(NamedTuple):
    """What was found in an image.

    Attributes:
        file: Its path, or its place in a tar or a Hugging Face data set.
        label: The index of its class; ``None`` if it cannot be read.
        digest: A hash of its bytes; ``None`` if it cannot be read.
        problem: What is wrong with it; ``None`` if nothing is.
    """

    file: str
    label: int | None = None
    digest: bytes | None = None
    problem: Problem | None = None


def check(datasets: Sequence[TimmDataset], cfg: Config) -> list[Problem]:
    """Find all problems of images, of folders of classes, and of the numbers of classes in a config.

    Args:
        datasets: Data sets that were built with ``lazy_init=True``, so that none has looked for its data yet.
        cfg: The config of the data sets.

    Returns:
        The problems, in the order of the data sets.

    Raises:
        UserError: If one of the data sets is not a TimmDataset.
    """
    problems: list[Problem] = []
    class_problems: list[Problem] = []
    first = None
    for dataset in datasets:
        if not isinstance(dataset, TimmDataset):
            raise UserError(f'cannot check {type(dataset).__name__}: it is not a TimmDataset')
        try:
            dataset.full_init()
        except UserError as error:
            problems.append(_unreadable(dataset, error))
            continue
        findings = check_all(partial(_check_image, dataset), range(len(dataset)), _place(dataset))
        problems += [finding.problem for finding in findings if finding.problem]
        problems += _two_labels(dataset, findings)
        class_problems += _lacking_images(dataset, {finding.label for finding in findings})
        first = first or dataset
        class_problems += _compare_classes(first, dataset, {problem.file for problem in class_problems})
    if first and not class_problems:  # otherwise, their number is not the one to be
        problems += _compare_numbers(cfg, first)
    return problems + class_problems


def _place(dataset: TimmDataset) -> str:
    """The folder of a split, a tar, or the name of a Hugging Face data set."""
    return f'{dataset.name} ({dataset.split})' if dataset.name else dataset.reader.root


def _unreadable(dataset: TimmDataset, error: UserError) -> Problem:
    if not dataset.name and dataset.root and not os.path.exists(dataset.root):
        detail = f'it is not there, seen from {Path.cwd()}'
        fix = 'put or link train/<class>/ and val/<class>/ there, or set dataset.root in all data loaders'
        return Problem(dataset.root, 'missing folder', detail, fix)
    return Problem(dataset.name or str(dataset.root), 'data set that cannot be read', str(error), 'follow the message')


def _check_image(dataset: TimmDataset, index: int) -> Finding:
    """Decode an image as training does."""
    file = dataset.path(index)
    if not isinstance(dataset.reader, ReaderImageFolder):
        file = f'{_place(dataset)}, image {index}: {file}'
    try:
        opened, label = dataset.reader[index]
        with opened:
            content = opened.read()
    except FileNotFoundError:
        return Finding(file, problem=Problem(file, 'missing file', 'it is a broken link', 'mend or remove the link'))
    except (OSError, tarfile.TarError) as error:
        detail = getattr(error, 'strerror', None) or str(error)
        problem = Problem(file, 'unreadable file', detail, 'look at its permissions and at the disk')
        return Finding(file, problem=problem)
    kind, detail, fix = None, '', 'copy or download it again'
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.convert('RGB')
            if image.mode.startswith(('I', 'F')) and image.getextrema()[1] > 255:
                kind, detail = 'grey image of more than 8 bits', 'all values above 255 become white'
                fix = 'stretch the values to the range that you need and save them with 8 bits'
    except UnidentifiedImageError:
        kind, detail = 'no image that training can read', f'it begins with {content[:24]!r}'
        fix = 'download it again if it is a web page or a pointer to the real file, or convert it to JPEG or PNG'
        if not content:
            kind, detail, fix = 'empty file', 'it has 0 bytes', 'copy or download it again'
    except Image.DecompressionBombError as error:
        kind, detail, fix = 'image that is too large for PIL', str(error), 'scale it down'
    except Exception as error:  # PIL raises all kinds of exceptions for damaged files
        kind, detail = 'damaged image', str(error)
    if kind is None and (label is None or label < 0):
        kind, detail, fix = 'image without a label', f'its label is {label}', 'name another split'
    problem = Problem(file, kind, detail, fix) if kind else None
    return Finding(file, label, hashlib.blake2b(content, digest_size=16).digest(), problem)


def _two_labels(dataset: TimmDataset, findings: Sequence[Finding]) -> Iterator[Problem]:
    """The sound images whose bytes another image of the data set has under another label."""
    known: dict[bytes, Finding] = {}
    for finding in findings:
        if finding.problem:
            continue
        other = known.setdefault(finding.digest, finding)
        if other.label != finding.label:
            detail = f'{other.file} is the same image, with the label {dataset.metainfo["classes"][other.label]!r}'
            yield Problem(finding.file, 'image with two labels', detail, 'remove the one with the wrong label')


def _lacking_images(dataset: TimmDataset, labels: set[int | None]) -> Iterator[Problem]:
    """The classes without an image, and the images without a class."""
    for index, name in enumerate(dataset.metainfo['classes']):  # those of a class_map or a Hugging Face data set
        if index not in labels and None not in labels:  # an image that cannot be opened may be of this class
            detail = f'no image has the class {name!r} of index {index}'
            yield Problem(_place(dataset), 'class without an image', detail, 'add images, or remove it from class_map')
    if not isinstance(dataset.reader, ReaderImageFolder) or dataset.class_map:
        return
    root, endings = dataset.reader.root, ', '.join(get_img_extensions())
    full = {os.path.dirname(path) for path, _ in dataset.reader.samples}
    for folder, parts, files in os.walk(root, followlinks=True):
        parts[:] = [part for part in parts if not part.startswith('.')]
        if not parts and folder not in full and os.path.dirname(folder) not in full - {root}:
            detail = f'it has {f"{len(files)} files, but " if files else ""}no file of {endings}: the indices of all '
            detail += 'later classes move'
            fix = 'put images there, or remove this folder from all splits'
            yield Problem(folder, 'class folder without an image', detail, fix)
    if root in full:
        detail = 'it holds images besides the class folders, which timm takes for a class that comes first'
        yield Problem(root, 'images outside of class folders', detail, 'move them into the folder of their class')


def _compare_classes(first: TimmDataset, other: TimmDataset, known: set[str]) -> Iterator[Problem]:
    """The classes that only one of two data sets has.

    Args:
        first: The data set with which all others are compared.
        other: The other data set.
        known: Folders that have a problem already.
    """
    lists = [dataset.metainfo['classes'] for dataset in (first, other)]
    for here, there in ((first, other), (other, first)):
        for name in sorted(set(here.metainfo['classes']).difference(there.metainfo['classes'])):
            place = os.path.join(_place(there), name)
            if name and place not in known:
                detail = f'{_place(here)} has it: the indices of all later classes differ'
                fix = 'name the folders alike and put images there, or remove the class from all splits'
                yield Problem(place, 'class that another split has', detail, fix)
    difference = first_difference(*lists)
    if difference and set(lists[0]) == set(lists[1]):
        fix = 'write the same list everywhere'
        yield Problem(_place(other), 'different lists of classes', f'not as in {_place(first)}: {difference}', fix)


def _compare_numbers(cfg: Config, dataset: TimmDataset) -> Iterator[Problem]:
    """The settings that have another number of classes than the data."""
    numbers, number = {}, len(dataset.metainfo['classes'])
    if type_name(cfg.model) == 'ImageClassifier':
        numbers['model.num_classes'] = cfg.model.get('num_classes', 1000)
    if mixup := (cfg.train_dataloader.get('collate_fn') or {}).get('mixup'):
        numbers['train_dataloader.collate_fn.mixup.num_classes'] = mixup.get('num_classes', 1000)
    for key, value in numbers.items():
        if value != number:
            detail = f'{key} is {value}, but {_place(dataset)} has {number} classes'
            fix = f'set it to {number}, or add the folders of the other classes'
            yield Problem(cfg.filename, 'another number of classes than the data', detail, fix)
