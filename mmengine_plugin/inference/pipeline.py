"""The test pipeline of a config, from a file to the input of the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import Compose, pseudo_collate

from backbones.errors import UserError

from ..data.image_checks import transform_of
from ..data.image_loaders import split_loader
from .collecting import ClassScores, Detections, LabelMap
from .tiles import Tile

Result = Detections | LabelMap | ClassScores


@dataclass(frozen=True)
class Input:
    """A tile of an image, ready for the model.

    Attributes:
        path: File of the image.
        pixels: The whole image, as it was loaded.
        tile: The part of it that ``data`` holds.
        is_last: Whether it is the last tile of its image.
        result: What collects the predictions of the tiles of this image.
        data: What the test pipeline makes of the tile.
    """

    path: str
    pixels: np.ndarray
    tile: Tile
    is_last: bool
    result: Result
    data: dict


class InputPipeline:
    """The test pipeline of a config, split into the loader and the transforms after it; annotations are left out.

    Args:
        steps: The pipeline in the config.
        source: The config file, for messages.

    Attributes:
        loader: The transform that loads an image.
        collate: Forms a batch for the model of what :meth:`data_of` returns.

    Raises:
        UserError: If no step loads an image, or if its decoder is not installed.
    """

    collate = staticmethod(pseudo_collate)

    def __init__(self, steps: Sequence[Mapping], source: str) -> None:
        self.pipeline = Compose([step for step in steps if 'Annotations' not in str(step['type'])])
        self.loader, self.transforms = split_loader(self.pipeline.transforms)
        if self.loader is None:
            raise UserError(f'{source}: the test pipeline has no LoadImageFromFile: add it as the first step')
        transform_of(self, LoadImageFromFile)  # refuses a decoder that is not installed

    def data_of(self, path: str, pixels: np.ndarray, tile: Tile) -> dict:
        """Apply the transforms after the loader to a tile of an image, as if it were an image.

        Args:
            path: File of the image.
            pixels: The image ``(H, W)`` or ``(H, W, C)``, as it was loaded.
            tile: The part of it.

        Returns:
            ``inputs`` and ``data_samples``, as the model takes them.
        """
        left, top, right, bottom = tile.box
        part = np.ascontiguousarray(pixels[top:bottom, left:right])
        data = dict(img=part, img_path=path, img_shape=part.shape[:2], ori_shape=part.shape[:2])
        for transform in self.transforms:
            data = transform(data)
        return data
