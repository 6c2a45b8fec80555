"""Predictions beside their ground truth, for detection and segmentation alike."""

from collections.abc import Sequence
from pathlib import Path

import mmcv
from mmengine.fileio import get
from mmengine.hooks import Hook
from mmengine.runner import Runner


class PicturesHook(Hook):
    """Draw every tested image by the Runner's visualizer: ground truth left, prediction right.

    mmdet's and mmseg's own hooks name, place and skip pictures each in its way; this one writes one file an image.

    Args:
        folder: Where ``<name of the image>.png`` is written; where ``None``, the visualizer's backends get it.
        show: Open a window for each picture.
        wait_time: Seconds that the window stays.
    """

    def __init__(self, folder: str | None, show: bool = False, wait_time: float = 0.0) -> None:
        self.folder, self.show, self.wait_time = folder, show, wait_time

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence) -> None:
        """Draw the images of one batch."""
        for sample in outputs:
            path = Path(sample.img_path)
            runner.visualizer.add_datasample(
                path.name,
                mmcv.imfrombytes(get(sample.img_path), channel_order='rgb'),
                data_sample=sample,
                show=self.show,
                wait_time=self.wait_time,
                out_file=self.folder and str(Path(self.folder, path.stem + '.png')),
            )
