"""Batches of images, with mixup and CutMix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmengine.registry import FUNCTIONS
from timm.data import FastCollateMixup


@FUNCTIONS.register_module()
def collate_images(samples: Sequence[Mapping], mixup: Mapping | None = None) -> dict:
    """Form a batch of the samples of :class:`~timm_plugin.dataset.TimmDataset`.

    Args:
        samples: Samples of one size; an even number of them if they are mixed.
        mixup: Arguments of timm's FastCollateMixup, which mixes the uint8 images, as in timm's training; ``None`` mixes
            nothing.

    Returns:
        ``inputs`` ``(B, 3, H, W)`` uint8; ``labels``, which are indices ``(B,)`` or, if mixed, soft labels
        ``(B, num_classes)``; and ``img_path``, the name of each image.
    """
    images, labels = [sample['inputs'] for sample in samples], [sample['label'] for sample in samples]
    if mixup:
        inputs, labels = FastCollateMixup(**mixup)(list(zip(images, labels, strict=True)))
    else:
        inputs, labels = torch.stack(images), torch.tensor(labels)
    return dict(inputs=inputs, labels=labels, img_path=[sample['img_path'] for sample in samples])
