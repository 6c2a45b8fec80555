"""Masks as people have them, read as labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import mmcv
import numpy as np
from mmengine import fileio
from mmseg.datasets.transforms import LoadAnnotations
from mmseg.registry import TRANSFORMS
from PIL import Image

from backbones.errors import UserError

from .color_masks import IGNORED, RGB, colors_to_indices


class LoadMasks(LoadAnnotations):
    """mmseg's LoadAnnotations, which also reads colours, and refuses what it would cut to 8 bits.

    The mask may have any number of bits, a palette, or an alpha channel, which is ignored. If the mask has colours, and
    these are shades of grey, the shade is the value of the pixel.

    Args:
        colors: Colour of each class, as (red, green, blue). ``None`` if pixels hold numbers.
        ignored: Colours that become 255.
        **kwargs: Arguments of LoadAnnotations.
    """

    def __init__(self, colors: Sequence[RGB] | None = None, ignored: Sequence[RGB] = (), **kwargs) -> None:
        super().__init__(**kwargs)
        self.colors, self.ignored = colors, ignored

    def transform(self, results: dict) -> dict:
        """Add ``gt_seg_map``, ``(H, W)``, uint8: indices of classes, and 255 for pixels that are ignored.

        Args:
            results: The sample, with ``seg_map_path``, ``label_map`` and ``reduce_zero_label``.

        Raises:
            UserError: If the file cannot be read as a mask.
        """
        path, reduced = results['seg_map_path'], results['reduce_zero_label']
        if self.reduce_zero_label not in (None, reduced):
            raise UserError(
                f'reduce_zero_label is {reduced} in the data set and {self.reduce_zero_label} in LoadAnnotations: '
                'leave it out of LoadAnnotations'
            )
        content = fileio.get(path, backend_args=self.backend_args)
        try:
            labels = self.read_labels(content)
        except Image.DecompressionBombError as error:
            raise UserError(f'label map {path}: {error}; cut image and mask into tiles') from error
        except UserError as error:
            raise UserError(f'label map {path}: {error}') from error
        size = results.get('ori_shape', labels.shape)
        if labels.shape != tuple(size):
            raise UserError(f'label map {path} {size_difference(labels.shape, size)}')
        if self.colors is None:
            labels = label_table(reduced, results.get('label_map'))[labels]
        results['gt_seg_map'] = labels
        results['seg_fields'].append('gt_seg_map')
        return results

    def read_labels(self, content: bytes) -> np.ndarray:
        """Decode a mask.

        Args:
            content: The bytes of the file.

        Returns:
            ``(H, W)``, uint8: with colours, the labels; otherwise the values of the pixels.

        Raises:
            UserError: If the mask has a colour of no class, colours instead of values, or values above 255.
        """
        if self.colors is None:
            return to_values(mmcv.imfrombytes(content, 'unchanged', backend=self.imdecode_backend))
        return colors_to_indices(read_colors(content, self.imdecode_backend), self.colors, self.ignored)


def read_colors(content: bytes, backend: str) -> np.ndarray:
    """Decode an image file, by one of mmcv's backends, to ``(H, W, 3)``, uint8, in the order red, green, blue."""
    pixels = mmcv.imfrombytes(content, 'color_ignore_orientation', backend=backend)
    return np.ascontiguousarray(pixels[..., ::-1])


def has_colors(pixels: np.ndarray) -> bool:
    """Whether the channels of a mask ``(H, W)`` or ``(H, W, C)`` differ. Alpha does not count."""
    if pixels.ndim == 2:
        return False
    channels = _without_alpha(pixels)
    return bool((channels != channels[..., :1]).any())


def to_values(pixels: np.ndarray) -> np.ndarray:
    """Turn the pixels of a mask of numbers into ``(H, W)``, uint8.

    Args:
        pixels: ``(H, W)`` or ``(H, W, C)``, of any type. Alpha, the last of 2 or 4 channels, is ignored.

    Raises:
        UserError: If the pixels are colours, or if a value is not a whole number from 0 to 255.
    """
    if has_colors(pixels):
        raise UserError(
            'it has colours, and must have one channel of class indices: give the colour of each class in values of '
            'FolderDataset; tools/check_dataset.py prints them'
        )
    if pixels.ndim == 3:
        pixels = pixels[..., 0]
    if pixels.dtype in (np.uint8, bool):
        return pixels.astype(np.uint8)
    values = pixels.astype(np.uint8)
    if (values != pixels).any():
        worst = pixels[values != pixels].max()
        raise UserError(f'it has the value {worst}, and labels go from 0 to 255: write it with 8 bits')
    return values


def _without_alpha(pixels: np.ndarray) -> np.ndarray:
    """Leave out the last channel of ``(H, W, C)`` if there are 2 or 4."""
    channels = pixels.shape[2]
    return pixels[..., : channels - 1] if channels in (2, 4) else pixels


def size_difference(labels: Sequence[int], image: Sequence[int]) -> str:
    """Say that a label map does not have the size of its image, both (height, width), and why that may be."""
    reason = 'put the label map there that was made for this image'
    if tuple(labels) == (image[1], image[0]):
        reason = (
            'the EXIF orientation of the image may turn it: if the label map was made for the unturned pixels, set '
            "color_type='color_ignore_orientation' in every LoadImageFromFile"
        )
    return f'has {labels[1]}x{labels[0]} pixels, and its image has {image[1]}x{image[0]}: {reason}'


def label_table(reduced: bool, label_map: Mapping[int, int] | None) -> np.ndarray:
    """The label of each pixel value from 0 to 255, as mmseg's LoadAnnotations has them.

    Args:
        reduced: Whether value 0 is ignored and the others are lowered by 1.
        label_map: The new label of each label; others stay as they are.
    """
    labels = np.arange(256)
    if reduced:
        labels = np.where((labels == 0) | (labels == IGNORED), IGNORED, labels - 1)
    known = label_map or {}
    return np.array([known.get(label, label) for label in labels.tolist()], np.uint8)


def with_masks(pipeline: Sequence, **settings) -> list:
    """Put LoadMasks in the place of LoadAnnotations, also within TestTimeAug and other wrappers.

    Args:
        pipeline: Transforms, as in a config.
        **settings: ``colors`` and ``ignored`` of LoadMasks.
    """
    return _change_loaders(pipeline, lambda step: {**step, 'type': LoadMasks, **settings})


def without_masks(pipeline: Sequence) -> list:
    """Leave LoadAnnotations out of a pipeline, also within TestTimeAug and other wrappers.

    Args:
        pipeline: Transforms, as in a config.
    """
    return _change_loaders(pipeline, lambda step: None)


def _change_loaders(pipeline: Sequence, change: Callable[[dict], dict | None]) -> list:
    """Replace each LoadAnnotations by what ``change`` returns for it; ``None`` leaves it out."""
    steps = []
    for step in pipeline:
        if isinstance(step, (list, tuple)):
            step = _change_loaders(step, change) or None  # TestTimeAug has no use for an empty list
        elif isinstance(step, dict):
            if isinstance(step.get('transforms'), (list, tuple)):
                step = {**step, 'transforms': _change_loaders(step['transforms'], change)}
            kind = step.get('type')
            if isinstance(kind, str):
                kind = TRANSFORMS.get(kind)
            if kind in (LoadAnnotations, LoadMasks):
                step = change(step)
        if step is not None:
            steps.append(step)
    return steps
