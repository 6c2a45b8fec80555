"""The number of classes of the heads and of the data."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from backbones.errors import UserError


@HOOKS.register_module()
class NumClassesHook(Hook):
    """Compares ``num_classes`` of the model's heads with the classes of the data, before the first step.

    Raises:
        UserError: If the numbers differ; the message names the head.
    """

    def before_train(self, runner: Runner) -> None:
        """Compare with the training data."""
        self._compare(runner, runner.train_dataloader.dataset)

    def before_val(self, runner: Runner) -> None:
        """Compare with the validation data."""
        self._compare(runner, runner.val_dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        """Compare with the test data."""
        self._compare(runner, runner.test_dataloader.dataset)

    def _compare(self, runner: Runner, dataset: object) -> None:
        check_num_classes(runner.model, dataset.metainfo['classes'], type(dataset).__name__)


def check_num_classes(model: nn.Module, classes: Sequence[str], source: str) -> None:
    """Compare ``num_classes`` of a model's heads with a list of classes.

    Args:
        model: A detector or segmentor.
        classes: Names of the classes.
        source: Name of the data set that has these classes, for the message.

    Raises:
        UserError: If a head has another number of classes.
    """
    listed = ', '.join(classes[:5]) + (', ...' if len(classes) > 5 else '')
    for name, module in model.named_modules():
        count = getattr(module, 'num_classes', None)
        if count not in (None, len(classes)) and re.search(r'(bbox|mask|decode|auxiliary)_head(\.\d+)?$', name):
            raise UserError(
                f'model.{name}.num_classes is {count}, but {source} has {len(classes)} classes '
                f'({listed}): set num_classes in the heads, and metainfo=dict(classes=(...)) in every '
                "data loader's dataset"
            )
