"""mmdet's normalisation for images of any number of channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmdet.models import DetDataPreprocessor
from mmdet.registry import MODELS


@MODELS.register_module()
class MultiChannelDetDataPreprocessor(DetDataPreprocessor):
    """DetDataPreprocessor for any number of channels; the original takes 1 or 3 values of ``mean`` and ``std``.

    Args:
        mean: Mean of each channel, in the order and the range of the loaded pixels.
        std: Standard deviation of each channel.
        **kwargs: Other arguments of DetDataPreprocessor, such as ``pad_size_divisor``. ``bgr_to_rgb`` must be false
            unless images have 3 channels.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], **kwargs) -> None:
        super().__init__(mean=mean[:1], std=std[:1], **kwargs)
        for name, values in (('mean', mean), ('std', std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
