"""The predictions of a segmentor as a file of a size that disks hold."""

from collections.abc import Sequence

import torch
from mmengine.evaluator import DumpResults
from mmseg.registry import METRICS


@METRICS.register_module()
class DumpSegResults(DumpResults):
    """mmengine's DumpResults, which keeps the label maps, but not the logits.

    The logits of an image of ADE20K take about 200 MB: 150 numbers of 4 bytes for each pixel. Label maps take one byte
    for each pixel if no label is above 255, and four bytes otherwise.

    Args:
        *args: Arguments of DumpResults.
        **kwargs: Arguments of DumpResults.
    """

    def process(self, data_batch: object, predictions: Sequence[dict]) -> None:
        """Keep the label maps of a batch."""
        kept = []
        for prediction in predictions:
            sample = {key: value for key, value in prediction.items() if key != 'seg_logits'}
            maps = {key: sample[key]['data'] for key in ('pred_sem_seg', 'gt_sem_seg') if key in sample}
            # metrics convert the truth to the type of the prediction
            fits = all(labels.min() >= 0 and labels.max() <= 255 for labels in maps.values())
            for key, labels in maps.items():
                sample[key] = dict(sample[key], data=labels.to(torch.uint8 if fits else torch.int32))
            kept.append(sample)
        super().process(data_batch, kept)
