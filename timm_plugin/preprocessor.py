"""The last steps of timm's input pipeline, which run on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS
from timm.data.random_erasing import RandomErasing

from backbones.errors import UserError


@MODELS.register_module()
class ImagePreprocessor(BaseDataPreprocessor):
    """Normalises a batch of images, and erases rectangles in training, as timm's PrefetchLoader does.

    Args:
        mean: Mean of each channel, of values from 0 to 255.
        std: Standard deviation of each channel.
        erasing: Arguments of timm's RandomErasing for the training: ``dict(probability=0.25, mode='pixel')``; ``None``
            erases nothing.

    Raises:
        UserError: If RandomErasing does not take these arguments.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], erasing: Mapping | None = None) -> None:
        super().__init__()
        self.register_buffer('mean', torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std).view(1, -1, 1, 1), persistent=False)
        self.erasing = None
        if erasing:
            try:
                self.erasing = RandomErasing(**erasing)
                if not 0 <= self.erasing.probability <= 1:
                    raise ValueError('probability must be from 0 to 1')
            except (AssertionError, TypeError, ValueError) as error:
                raise UserError(
                    f"model.data_preprocessor.erasing={dict(erasing)} cannot be used by timm's RandomErasing"
                    f'{f" [{error}]" if str(error) else ""}: set for example probability=0.25 and mode=pixel'
                ) from error

    def forward(self, data: dict, training: bool = False) -> dict:
        """Move a batch to the device, and normalise its images.

        Args:
            data: ``inputs``, the images ``(B, C, H, W)`` as uint8, and whatever else the model takes.
            training: Whether rectangles are erased.

        Returns:
            The batch, with images in the model's precision.
        """
        data = self.cast_data(data)
        images = data['inputs'].to(self.mean).sub_(self.mean).div_(self.std)
        if training and self.erasing:
            self.erasing.device = images.device  # on which it draws noise
            images = self.erasing(images)
        return data | dict(inputs=images)
