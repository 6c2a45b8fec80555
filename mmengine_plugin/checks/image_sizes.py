"""Whether the images of a segmentor's batches have one size."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator

from mmengine.dist import get_world_size
from mmengine.logging import print_log
from PIL import Image
from torch.utils.data import Dataset

from backbones.errors import UserError

from ..data.checked_samples import views
from ..engine.sampling import SeededDataset
from .pipelines import crop_above_size, padded_share
from .run_part import RunPart
from .samples import load_sample

TRIED = 4  # images from the beginning, beside two files of different sizes
OPENED = 500  # files at most that are opened to find such files


def check_image_sizes(part: RunPart) -> None:
    """Check that images which share a batch have one size when mmseg stacks them.

    In training, the preprocessor pads images up to its ``size``. In a validation and a test, it pads only with a
    ``test_cfg``. A warning names the size to set if a part of each training batch is padding, or if the training crop
    is larger than the size.

    Raises:
        UserError: If images that were tried have several sizes; the message has the setting to use.
    """
    preprocessor = getattr(part.model, 'data_preprocessor', None)
    if type(preprocessor).__name__ != 'SegDataPreProcessor':
        return
    note = crop_above_size(part.cfg) if part.split == 'train' else None
    if note:
        print_log(note, 'current', logging.WARNING)
    elif part.split == 'train' and (found := padded_share(part.cfg)):  # all images have the size of the crop
        setting, share = found
        if share > 0:
            print_log(
                f'{share:.0%} OF EACH TRAINING BATCH IS PADDING: the training crop is smaller than '
                f'model.data_preprocessor.size. Set {setting}',
                'current',
                logging.WARNING,
            )
        return
    is_padded = preprocessor.size_divisor if part.split == 'train' else preprocessor.test_cfg
    if part.batch_size == 1 or part.sample is None or is_padded:
        return
    least = preprocessor.size if part.split == 'train' else (0, 0)
    batches: dict[object, dict[tuple[int, int], str]] = defaultdict(dict)  # the sizes in each batch, with an image
    for batch, height, width, path in _sizes(part):
        batches[batch][max(height, least[0]), max(width, least[1])] = path
    sizes = max(batches.values(), key=len, default={})
    if len(sizes) <= 1:
        return
    listed = ' and '.join(f'{height}x{width} ({path})' for (height, width), path in list(sizes.items())[:2])
    if note:
        raise UserError(f'train_dataloader: images of several sizes, such as {listed}, cannot share a batch: {note}')
    if part.split == 'train':
        raise UserError(
            f'train_dataloader: images of several sizes, such as {listed}, cannot share a batch: add '
            f"dict(type='RandomCrop', crop_size={tuple(least)}) to the pipeline, after the last resizing"
        )
    raise UserError(
        f'{part.split}_dataloader: images of several sizes, such as {listed}, cannot share a batch: set '
        f'{part.split}_dataloader.batch_size=1'
    )


def _sizes(part: RunPart) -> Iterator[tuple[object, int, int, str]]:
    """Batch, height, width and path of some samples after the pipeline."""
    dataset = part.dataset.dataset if isinstance(part.dataset, SeededDataset) else part.dataset
    for index in sorted({*range(min(TRIED, len(dataset))), *_files_of_different_sizes(part, dataset)}):
        for view in views(load_sample(dataset, index, f'{part.split}_dataloader.dataset')):
            path = view['data_samples'].get('img_path', '')
            yield _batch_of(part, index), *view['inputs'].shape[-2:], path


def _files_of_different_sizes(part: RunPart, dataset: Dataset) -> tuple[int, ...]:
    """The first two images that may share a batch and have files of different sizes.

    The tuple is empty if none are among the first files, or if one of these cannot be opened.
    """
    first: dict[object, tuple[int, tuple[int, int]]] = {}
    for index in range(min(OPENED, len(dataset))):
        try:
            with Image.open(dataset.get_data_info(index)['img_path']) as image:
                size = image.size
        # a wrapper, or a file that PIL cannot read or finds too large
        except (AttributeError, KeyError, OSError, ValueError, Image.DecompressionBombError):
            return ()
        other, expected = first.setdefault(_batch_of(part, index), (index, size))
        if size != expected:
            return other, index
    return ()


def _batch_of(part: RunPart, index: int) -> object:
    """The batch of an image, and its process, as DefaultSampler forms them; any two images may share a shuffled one."""
    sampler = part.cfg[f'{part.split}_dataloader'].get('sampler') or {}
    if part.split == 'train' or sampler.get('shuffle', True):
        return None
    processes = get_world_size()
    return index // (part.batch_size * processes), index % processes
