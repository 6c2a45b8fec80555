"""mmseg's losses where mmseg 1.2 is wrong about ignored pixels, or fails on a CPU.

A pixel is ignored if its label is ``ignore_index``, 255 by default: the border of an object, a pixel that nobody
labelled, or the padding of an image that is smaller than the crop.
"""

from __future__ import annotations

import torch.nn.functional as F
from mmseg.models.losses import CrossEntropyLoss, DiceLoss, FocalLoss
from mmseg.models.losses.cross_entropy_loss import cross_entropy
from mmseg.models.losses.dice_loss import dice_loss
from mmseg.registry import MODELS
from torch import Tensor


@MODELS.register_module()
class WeightedCrossEntropyLoss(CrossEntropyLoss):
    """mmseg's CrossEntropyLoss, which also takes ``class_weight`` if pixels are ignored.

    With ``class_weight``, the loss is the weighted mean of PyTorch's :func:`~torch.nn.functional.cross_entropy`, in
    which ignored pixels have the weight 0. mmseg 1.2 looks up the weight of class 255 and fails.

    Args:
        *args: Arguments of CrossEntropyLoss.
        **kwargs: Arguments of CrossEntropyLoss.
    """

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        ignore_index: int = -100,
        **kwargs,
    ) -> Tensor:
        """Compute the loss.

        Args:
            cls_score: ``(B, C, H, W)``, logits.
            label: ``(B, H, W)``, int64, indices of classes.
            weight: ``(B, H, W)``, weights of the pixels.
            avg_factor: Number by which the sum is divided. If ``None``, it is the sum of the pixels' class weights.
            reduction_override: ``'none'``, ``'mean'`` or ``'sum'``, in place of ``reduction``.
            ignore_index: The label of ignored pixels.
            **kwargs: Arguments of mmseg's function for the kind of loss.
        """
        mean = (reduction_override or self.reduction) == 'mean'
        if self.class_weight is not None and self.cls_criterion is cross_entropy and mean and avg_factor is None:
            kept = label != ignore_index
            avg_factor = (cls_score.new_tensor(self.class_weight)[label * kept] * kept).sum()
        return super().forward(cls_score, label, weight, avg_factor, reduction_override, ignore_index, **kwargs)


@MODELS.register_module()
class MaskedDiceLoss(DiceLoss):
    """mmseg's DiceLoss, which leaves ignored pixels out.

    mmseg 1.2 counts an ignored pixel as one that belongs to no class: whatever is predicted there is an error. Its
    ``ignore_index`` is compared with the indices of the classes, not with the labels.

    With a single channel of logits, this channel is class 1, as in the predictions of mmseg's heads. mmseg's DiceLoss
    takes it for class 0.

    Args:
        *args: Arguments of DiceLoss. ``ignore_index`` is not used: the head has its own.
        **kwargs: Arguments of DiceLoss.
    """

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        ignore_index: int = 255,
        **kwargs,
    ) -> Tensor:
        """Compute the loss, for each image over all of its classes and pixels.

        Args:
            pred: ``(B, C, H, W)``, logits, or probabilities with ``activate=False``.
            target: ``(B, H, W)``, int64, indices of classes.
            weight: ``(B,)``, weights of the images.
            avg_factor: Number by which the sum is divided. If ``None``, it is the number of images.
            reduction_override: ``'none'``, ``'mean'`` or ``'sum'``, in place of ``reduction``.
            ignore_index: The label of ignored pixels.
            **kwargs: Not used.
        """
        if self.activate and self.use_sigmoid:
            pred = pred.sigmoid()
        elif self.activate and pred.shape[1] > 1:
            pred = pred.softmax(dim=1)
        kept = (target != ignore_index).unsqueeze(1)
        return self.loss_weight * dice_loss(
            pred * kept,
            _one_hot(target, pred.shape[1], ignore_index),
            weight,
            eps=self.eps,
            reduction=reduction_override or self.reduction,
            naive_dice=self.naive_dice,
            avg_factor=avg_factor,
            ignore_index=None,
        )


@MODELS.register_module()
class PortableFocalLoss(FocalLoss):
    """mmseg's FocalLoss, which also runs on a CPU. On a GPU, it is mmseg's.

    On a CPU, mmseg 1.2 takes one channel of the labels where it needs all of them, and fails.

    Args:
        *args: Arguments of FocalLoss.
        **kwargs: Arguments of FocalLoss.
    """

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        ignore_index: int = 255,
        **kwargs,
    ) -> Tensor:
        """Compute the loss.

        Args:
            pred: ``(B, C, H, W)``, logits.
            target: ``(B, H, W)``, int64, indices of classes, or one channel for each class as in ``pred``.
            weight: ``(B * H * W,)`` or ``(B, H, W)`` on a CPU, weights of the pixels; on a GPU, ``(B * H * W,)``.
            avg_factor: Number by which the sum is divided. If ``None``, it is the number of pixels times C.
            reduction_override: ``'none'``, ``'mean'`` or ``'sum'``, in place of ``reduction``.
            ignore_index: The label of ignored pixels.
            **kwargs: Not used.
        """
        if not pred.is_cuda and pred.shape != target.shape:
            kept = (target != ignore_index).flatten().type_as(pred)
            weight = kept if weight is None else kept * weight.flatten()
            target = _one_hot(target, pred.shape[1], ignore_index)
        return super().forward(pred, target, weight, avg_factor, reduction_override, ignore_index, **kwargs)


def _one_hot(labels: Tensor, channels: int, ignore_index: int) -> Tensor:
    """One channel for each class.

    Args:
        labels: ``(B, H, W)``, int64, indices of classes.
        channels: Number of channels. A single one is class 1.
        ignore_index: The label of ignored pixels.

    Returns:
        ``(B, channels, H, W)``, int64: 1 where a pixel has the class, otherwise 0; only 0 where it is ignored.
    """
    kept = labels != ignore_index
    classes = F.one_hot(labels * kept, max(channels, 2))[..., -channels:]
    return (classes * kept.unsqueeze(-1)).movedim(-1, 1)
