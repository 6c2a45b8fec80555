"""Top-1 and top-5 accuracy."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS
from timm.data import RealLabelsImagenet

from backbones.errors import UserError
from mmengine_plugin.checks.scores import score_names


@METRICS.register_module()
class TopKAccuracy(BaseMetric):
    """The share of images, in percent, whose label is among the k highest scores.

    Args:
        topk: Values of k.
        real_labels: The reassessed labels of ImageNet's validation images ("Are we done with ImageNet?", arXiv
            2006.07159), which replace those of the data set: ``'timm'`` for the file in timm, or the path of a
            ``real.json``. An image may have several labels, of which one must be found; images without one are left
            out, as in timm.
        collect_device: Where the results of several processes are collected, ``'cpu'`` or ``'gpu'``.
    """

    default_prefix = 'accuracy'

    def __init__(
        self, topk: Sequence[int] = (1, 5), real_labels: str | None = None, collect_device: str = 'cpu'
    ) -> None:
        super().__init__(collect_device)
        self.topk = tuple(topk)
        self.real_labels = read_real_labels(real_labels) if real_labels else None

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Note for each image, and each k, whether a label of it is among the k highest scores."""
        for sample in data_samples:
            labels = [sample['gt_label']] if self.real_labels is None else self._real_labels(sample['img_path'])
            scores = sample['pred_scores']
            best = scores.topk(min(max(self.topk), len(scores))).indices.tolist()
            # an image without labels is noted, too: the images that several processes share are counted by place
            self.results.append([any(label in best[:k] for label in labels) for k in self.topk] if labels else [])

    def compute_metrics(self, results: list[list[bool]]) -> dict[str, float]:
        """Average over the images.

        Returns:
            ``top1``, ``top5`` and so on, in percent.
        """
        results = [hits for hits in results if hits]
        if not results:
            raise UserError('test_evaluator.real_labels has no label for any of the images')
        return {
            f'top{k}': float(100 * np.mean(hits)) for k, hits in zip(self.topk, zip(*results, strict=True), strict=True)
        }

    def _real_labels(self, path: str) -> list[int]:
        name = os.path.basename(path)
        if name not in self.real_labels:
            raise UserError(f'test_evaluator.real_labels has no {name}: it is for the validation images of ImageNet')
        return self.real_labels[name]


@score_names.register
def _(metric: TopKAccuracy) -> set[str]:
    return {f'{metric.prefix}/top{k}' for k in metric.topk}


def read_real_labels(path: str) -> dict[str, list[int]]:
    """Read the reassessed labels of ImageNet's validation images.

    Args:
        path: ``'timm'``, or the path of a file in the format of the paper's ``real.json``.

    Returns:
        The labels of each image, by the name of its file.

    Raises:
        UserError: If the file cannot be read.
    """
    if path == 'timm':
        return RealLabelsImagenet(range(50_000)).real_labels  # it asks for as many names as there are images
    try:
        with open(path) as file:
            lists = json.load(file)
        return {f'ILSVRC2012_val_{i:08}.JPEG': list(labels) for i, labels in enumerate(lists, 1)}
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f'--real-labels {path} cannot be read: {error}') from error
