"""Whether the images of a segmentor's batches have one size."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from mmengine.logging import print_log
from PIL import Image
from torch.utils.data import Dataset

from backbones.errors import UserError

from ..data.checked_samples import views
from ..engine.sampling import SeededDataset
from .pipelines import padded_share
from .run_part import RunPart
from .samples import load_sample

TRIED = 4  # images from the beginning, beside the first one of another size in its file


def check_image_sizes(part: RunPart) -> None:
    """Check that images which share a batch have one size when mmseg stacks them.

    In training, the preprocessor pads images up to its ``size``. In a validation and a test, it pads only with a
    ``test_cfg``. A warning names the size to set if more than a part of each training batch is padding.

    Raises:
        UserError: If images that were tried have several sizes; the message has the setting to use.
    """
    preprocessor = getattr(part.model, 'data_preprocessor', None)
    if type(preprocessor).__name__ != 'SegDataPreProcessor':
        return
    if part.split == 'train' and (found := padded_share(part.cfg)):  # all images have the size of the crop
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
    sizes = {(max(height, least[0]), max(width, least[1])): path for height, width, path in _sizes(part)}
    if len(sizes) == 1:
        return
    listed = ' and '.join(f'{height}x{width} ({path})' for (height, width), path in list(sizes.items())[:2])
    if part.split == 'train':
        raise UserError(
            f'train_dataloader: images of several sizes, such as {listed}, cannot share a batch: add '
            f"dict(type='RandomCrop', crop_size={tuple(least)}) to the pipeline, after the last resizing"
        )
    raise UserError(
        f'{part.split}_dataloader: images of several sizes, such as {listed}, cannot share a batch: set '
        f'{part.split}_dataloader.batch_size=1'
    )


def _sizes(part: RunPart) -> Iterator[tuple[int, int, str]]:
    """Height, width and path of some samples after the pipeline."""
    dataset = part.dataset.dataset if isinstance(part.dataset, SeededDataset) else part.dataset
    tried = {*range(min(TRIED, len(dataset)))}
    if (other := _index_of_another_size(dataset)) is not None:
        tried.add(other)
    for index in sorted(tried):
        for view in views(load_sample(dataset, index, f'{part.split}_dataloader.dataset')):
            yield (*view['inputs'].shape[-2:], view['data_samples'].get('img_path', ''))


def _index_of_another_size(dataset: Dataset) -> int | None:
    """The first image whose file has another size than the first one's; ``None`` if there is none or no local file."""
    first = None
    for index in range(len(dataset)):
        try:
            with Image.open(dataset.get_data_info(index)['img_path']) as image:
                size = image.size
        except (AttributeError, KeyError, OSError):  # a wrapper, or a file that PIL cannot read
            return None
        first = first or size
        if size != first:
            return index
    return None
