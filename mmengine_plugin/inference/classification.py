"""The images and the class names of a classifier."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from mmengine.dataset import default_collate
from mmengine.registry import DATASETS
from PIL import Image
from timm.data import ImageNetInfo
from torch import Tensor

from backbones.errors import UserError

from ..checks.class_lists import class_tuple
from .tiles import Tile

IMAGENET_CLASSES = 1000


class ClassifierPipeline:
    """What :class:`timm_plugin.dataset.TimmDataset` does with an image, from a file to the input of the model.

    It has the members of :class:`~mmengine_plugin.inference.pipeline.InputPipeline`.

    Args:
        transform: The data set's ``transform``, from an RGB image to the input of the model.
    """

    collate = staticmethod(default_collate)

    def __init__(self, transform: Callable[[Image.Image], Tensor]) -> None:
        self.transform = transform

    @staticmethod
    def loader(data: dict) -> dict:
        """Load the image of ``img_path`` by PIL, unturned by EXIF, in BGR, as mmcv's loaders return it."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', Image.DecompressionBombWarning)
                with Image.open(data['img_path']) as image:
                    pixels = np.asarray(image.convert('RGB'))
        except Image.UnidentifiedImageError as error:
            raise UserError('PIL finds no image in it') from error
        except Image.DecompressionBombError as error:
            raise UserError(
                f'it has more than the {2 * Image.MAX_IMAGE_PIXELS} pixels that PIL reads: scale it down'
            ) from error
        return dict(img=np.ascontiguousarray(pixels[..., ::-1]))

    def data_of(self, path: str, pixels: np.ndarray, tile: Tile) -> dict:
        """Apply the transform to a whole image.

        Args:
            path: File of the image.
            pixels: The image ``(H, W, 3)``, as it was loaded.
            tile: All of it.

        Returns:
            ``inputs``, as the model takes them.

        Raises:
            UserError: If the image cannot be resized, such as a very elongated one, one side of which would become 0.
        """
        try:
            return dict(inputs=self.transform(Image.fromarray(pixels[..., ::-1])))
        except (MemoryError, ValueError) as error:
            height, width = pixels.shape[:2]
            raise UserError(f'{width} x {height} pixels cannot be resized [{error}]') from error


def class_names(num_classes: int, trained: object, data: Mapping[str, Any], checkpoint: str) -> list[str]:
    """Find the names of a classifier's classes: the checkpoint's, else those of ImageNet-1k or of the config's data.

    Args:
        num_classes: Number of classes of the model.
        trained: The ``dataset_meta`` of the checkpoint, if it has one.
        data: Config of the data set.
        checkpoint: The checkpoint, for messages.

    Returns:
        The names. Those that are ImageNet's synsets, such as ``n01440764``, are described in words, as in timm.

    Raises:
        UserError: If there are none, or another number of them.
    """
    names, source, info = class_tuple(trained), checkpoint, ImageNetInfo()
    if not names and num_classes == IMAGENET_CLASSES:
        names = info.label_names()
    if not names:
        source, root = 'test_dataloader.dataset', data.get('root')
        if not root or not os.path.exists(root):  # timm would download a data set of Hugging Face
            raise UserError(
                f'{checkpoint} does not name its {num_classes} classes, and their folders are not there, either: set '
                f'{source}.root={root} to a folder with val/<class>/, or name a checkpoint of tools/train.py'
            )
        names = DATASETS.build(data).metainfo['classes']
    if len(names) != num_classes:
        listed = ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')
        raise UserError(f'model.num_classes is {num_classes}, but {source} has {len(names)} classes ({listed})')
    return [_described(name, info) for name in names]


def _described(name: str, info: ImageNetInfo) -> str:
    """The description of a synset; any other name as it is."""
    try:
        return info.label_name_to_description(name)
    except KeyError:
        return name
