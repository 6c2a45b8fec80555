"""mmseg's scores, with a word on the classes that the masks do not have."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from mmengine.logging import print_log
from mmseg.evaluation import IoUMetric
from mmseg.registry import METRICS

from backbones.errors import UserError, did_you_mean

KINDS = ('mIoU', 'mDice', 'mFscore')
LISTED = 5  # classes that a message names


@METRICS.register_module()
class CheckedIoUMetric(IoUMetric):
    """mmseg's IoUMetric. It warns if masks lack a class, and refuses masks in which every pixel is ignored.

    The scores are those of IoUMetric. A class that occurs neither in the masks nor in the predictions has the score NaN
    and is left out of the means. If it is in no mask and one pixel is predicted as it, its IoU is 0 and counts.

    Args:
        *args: Arguments of IoUMetric.
        iou_metrics: One or more of ``'mIoU'``, ``'mDice'`` and ``'mFscore'``.
        **kwargs: Arguments of IoUMetric.

    Raises:
        UserError: If a score is unknown.
    """

    def __init__(self, *args, iou_metrics: str | Sequence[str] = ('mIoU',), **kwargs) -> None:
        kinds = [iou_metrics] if isinstance(iou_metrics, str) else list(iou_metrics)
        for kind in kinds:
            if kind not in KINDS:
                raise UserError(f'iou_metrics has {kind!r}{did_you_mean(str(kind), KINDS)}; known: {", ".join(KINDS)}')
        super().__init__(*args, iou_metrics=kinds, **kwargs)

    def compute_metrics(self, results: list[tuple[torch.Tensor, ...]]) -> dict[str, float]:
        """Compute the scores.

        Args:
            results: For each image, four tensors ``(C,)``: for each class, the pixels of the intersection, of the
                union, of the prediction and of the mask.

        Returns:
            The scores in percent, such as ``mIoU``.

        Raises:
            UserError: If no pixel of any mask has a class.
        """
        if self.format_only:
            return super().compute_metrics(results)
        _, union, _, truth = (sum(parts) for parts in zip(*results, strict=True))
        if not truth.any():
            raise UserError(
                f'all pixels of all {len(results)} masks are ignored (label {self.ignore_index}), so there is nothing '
                'to score: tools/check_dataset.py says which values the masks have'
            )
        classes = self.dataset_meta['classes']
        lacking = [name for name, pixels in zip(classes, truth.tolist(), strict=True) if not pixels]
        if lacking:
            names = ', '.join(lacking[:LISTED]) + (f' and {len(lacking) - LISTED} more' if lacking[LISTED:] else '')
            counted = int((union > 0).sum())
            means = f'the means below are over {counted} of {len(classes)} classes'
            if self.nan_to_num is not None:
                means = (
                    f'the means below count {self.nan_to_num} for {len(classes) - counted} of {len(classes)} classes'
                )
            print_log(
                f'{means}: no mask has {names}. If a pixel is predicted as such a class, its IoU is 0 and counts',
                'current',
                logging.WARNING,
            )
        return super().compute_metrics(results)
