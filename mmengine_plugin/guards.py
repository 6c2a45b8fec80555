"""Checks of a run that need the model and the data together."""

import re

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from backbones.errors import UserError


@HOOKS.register_module()
class NumClassesHook(Hook):
    """Refuse heads whose ``num_classes`` is not the number of classes of the data, before the first step."""

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
        classes = dataset.metainfo['classes']
        listed = ', '.join(classes[:5]) + (', ...' if len(classes) > 5 else '')
        for name, module in runner.model.named_modules():
            count = getattr(module, 'num_classes', None)
            if count not in (None, len(classes)) and re.search(r'(bbox|mask|decode|auxiliary)_head(\.\d+)?$', name):
                raise UserError(
                    f'model.{name}.num_classes is {count}, but {type(dataset).__name__} has {len(classes)} classes '
                    f'({listed}): set num_classes in the heads, and metainfo=dict(classes=(...)) in every '
                    "data loader's dataset"
                )
