"""The classes of the heads and of a checkpoint, compared with those of the data before the first step."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from backbones.errors import UserError

from ..compat.private_names import checkpoint_of
from ..engine.sampling import SeededDataset
from .class_lists import TEXT_MODELS, check_parts, class_list_problems, class_tuple, first_difference, setting

HEAD = re.compile(r'(bbox|mask|decode|auxiliary)_head(\.\d+)?$')
PANOPTIC_HEAD = re.compile(r'(semantic|panoptic)_head$')
# ends of the names of heads with classes of their own: objects and background, borders of regions and the rest
OTHER_CLASSES = ('RPNHead', 'STDCHead')


@HOOKS.register_module()
class NumClassesHook(Hook):
    """Compares the classes of the heads, of the data and of the checkpoint, before the first step.

    Before a training, the data loaders of the training and of the validation must have the same classes in the same
    order; other classes in that of the test are reported by a warning. Before a test or a validation
    without training, the data must have the classes that the checkpoint was trained on, in their order. The number of
    classes must be that of the heads.

    Args:
        check_names: Whether to compare the names of the classes with those of the checkpoint.

    Raises:
        UserError: If the classes differ. The message names the head or the first class that differs.
    """

    def __init__(self, check_names: bool = True) -> None:
        self.check_names = check_names
        self.trained: tuple[str, ...] | None = None  # classes of the checkpoint that is tested

    def after_load_checkpoint(self, runner: Runner, checkpoint: Mapping) -> None:
        """Note the classes that the checkpoint was trained on."""
        meta = checkpoint.get('meta') or {}
        self.trained = class_tuple(meta.get('dataset_meta') or meta)

    def before_train(self, runner: Runner) -> None:
        """Compare the heads with the training data, and the data loaders with each other."""
        self.trained = None  # a training may begin with the weights of other classes
        self._check_heads(runner, runner.train_dataloader.dataset)
        for problem in class_list_problems(runner.cfg, ('train', 'val')):
            raise UserError(problem)
        for problem in class_list_problems(runner.cfg):  # what is left concerns the test, which a training does not run
            runner.logger.warning(problem)
        check_parts(runner.train_dataloader.dataset)

    def before_val(self, runner: Runner) -> None:
        """Compare the heads and the checkpoint with the validation data."""
        self._check_heads(runner, runner.val_dataloader.dataset)
        self._check_checkpoint(runner, runner.val_dataloader.dataset, 'val_dataloader')

    def before_test(self, runner: Runner) -> None:
        """Compare the heads and the checkpoint with the test data."""
        self._check_heads(runner, runner.test_dataloader.dataset)
        self._check_checkpoint(runner, runner.test_dataloader.dataset, 'test_dataloader')

    def _check_heads(self, runner: Runner, dataset: object) -> None:
        classes = class_tuple(getattr(dataset, 'metainfo', None))
        if classes is not None:
            source = dataset.dataset if isinstance(dataset, SeededDataset) else dataset
            check_num_classes(runner.model, classes, type(source).__name__)

    def _check_checkpoint(self, runner: Runner, dataset: object, loader: str) -> None:
        classes, trained = class_tuple(getattr(dataset, 'metainfo', None)), self.trained
        if not self.check_names or classes is None or trained is None or len(classes) != len(trained):
            return
        if difference := first_difference(trained, classes):
            by_folder = hasattr(dataset, 'class_map')  # TimmDataset finds its classes itself
            raise UserError(
                f'{checkpoint_of(runner)} was trained on other classes than those of {loader}.dataset: {difference}. '
                + (
                    'Rename its folders, or list the classes in its class_map'
                    if by_folder
                    else f'Set {setting(trained)} there'
                )
                + '. If they are the same classes under other names, set '
                "dict(type='NumClassesHook', check_names=False) in custom_hooks"
            )


def check_num_classes(model: nn.Module, classes: Sequence[str], source: str) -> None:
    """Compare ``num_classes`` of a model's heads with a list of classes.

    The boxes and masks of a panoptic segmentor have the classes of things only. A model that reads class names as text
    has no fixed number of them, and is not checked.

    Args:
        model: A detector or segmentor.
        classes: Names of the classes.
        source: Name of the data set that has these classes, for the message.

    Raises:
        UserError: If a head has another number of classes.
    """
    if any(name.endswith(TEXT_MODELS) for name, _ in model.named_modules()):
        return
    listed = ', '.join(classes[:5]) + (', ...' if len(classes) > 5 else '')
    expected, described = len(classes), f'{source} has {len(classes)} classes ({listed})'
    for name, module in model.named_modules():
        if PANOPTIC_HEAD.search(name) and hasattr(module, 'num_things_classes'):
            things, stuff = module.num_things_classes, module.num_stuff_classes
            if things + stuff != len(classes):
                raise UserError(
                    f'model.{name} has num_things_classes={things} and num_stuff_classes={stuff}, {things + stuff} in '
                    f'sum, but {described}: set both in this head and in panoptic_fusion_head'
                )
            expected, described = things, f'model.{name}.num_things_classes is {things}'
    for name, module in model.named_modules():
        count = getattr(module, 'num_classes', None)
        if count in (None, expected) or not HEAD.search(name) or type(module).__name__.endswith(OTHER_CLASSES):
            continue
        raise UserError(
            f'model.{name}.num_classes is {count}, but {described}: set num_classes in the heads, and '
            "metainfo=dict(classes=(...)) in every data loader's dataset"
        )
