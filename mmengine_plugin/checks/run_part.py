"""What the checks before a run look at: the model and one data loader, with its first sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import Dataset

from .first_sample import first_sample


@dataclass
class RunPart:
    """The training, the validation or the test of a run.

    Attributes:
        cfg: Config of the run.
        model: Detector or segmentor, without a wrapper.
        split: ``'train'``, ``'val'`` or ``'test'``.
        loop: The training loop; ``None`` for the other splits.
        dataset: The data set of the data loader.
        metrics: The metrics of the evaluator; none for a training.
    """

    cfg: Config
    model: nn.Module
    split: str = 'train'
    loop: BaseLoop | None = None
    dataset: Dataset | None = None
    metrics: Sequence[BaseMetric] = ()

    @cached_property
    def sample(self) -> dict | None:
        """The first sample, as :func:`~mmengine_plugin.checks.first_sample.first_sample` loads it."""
        return first_sample(self.dataset, f'{self.split}_dataloader.dataset')

    @property
    def batch_size(self) -> int:
        """Number of images in a batch of one process."""
        return (self.cfg.get(f'{self.split}_dataloader') or {}).get('batch_size') or 1

    def metrics_of(self, name: str) -> list[tuple[str, BaseMetric]]:
        """The metrics of a type and of its subclasses, each with its key in the config.

        Args:
            name: Name of the type, such as ``'CocoMetric'``. The type itself is mmdet's or mmseg's, and only one of
                them may be installed.
        """
        pairs = numbered(f'{self.split}_evaluator', self.cfg.get(f'{self.split}_evaluator'))
        keys = [key for key, _ in pairs]
        if len(keys) != len(self.metrics):  # such as those of MultiDatasetsEvaluator
            keys = [f'{self.split}_evaluator'] * len(self.metrics)
        return [
            (key, metric)
            for key, metric in zip(keys, self.metrics, strict=True)
            if any(cls.__name__ == name for cls in type(metric).__mro__)
        ]


def part_of(runner: Runner, split: str, loop: BaseLoop | None = None) -> RunPart:
    """The part of a run that a data loader is for.

    Args:
        runner: The Runner.
        split: ``'train'``, ``'val'`` or ``'test'``.
        loop: The training loop.
    """
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if split == 'train':
        return RunPart(runner.cfg, model, split, loop, loop.dataloader.dataset)
    dataset = getattr(runner, f'{split}_dataloader').dataset
    return RunPart(runner.cfg, model, split, None, dataset, getattr(runner, f'{split}_evaluator').metrics)


def numbered(key: str, value: object) -> list[tuple[str, object]]:
    """The entries of a setting that may be a list or a single entry, each with its key."""
    if isinstance(value, Sequence):
        return [(f'{key}.{i}', entry) for i, entry in enumerate(value)]
    return [(key, value)]
