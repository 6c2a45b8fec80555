"""Checks before the first step: a run that would fail late is refused, and a schedule that does not fit is reported."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import chain

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, Runner

from backbones.errors import UserError

from ..compat.private_names import training_loop
from ..data.checked_samples import views
from ..data.metainfo import metainfo_problems
from ..data.shared_images import shared_by_path
from ..engine.sampling import refuse_endless_epochs
from .annotation_files import check_annotation_file, check_class_order
from .augmented_tests import check_test_time_augmentation
from .batch_norms import check_batch_norms
from .classification import check_mixing_of_labels, check_num_labels, check_same_labels
from .image_channels import check_image_channels
from .image_sizes import check_image_sizes
from .map_channels import check_map_channels
from .metric_checks import check_metrics
from .metric_settings import check_ignored_labels, check_label_map, check_masks, check_meta_keys, check_output_dir
from .pipelines import pipeline_problems
from .run_part import RunPart, part_of
from .schedule import warn_of_schedule
from .scores import check_monitored_scores
from .segmentation_heads import check_class_weights, check_single_channel


def check_settings(part: RunPart) -> None:
    """Refuse settings of the data that spoil scores without an error."""
    for problem in chain(metainfo_problems(part.cfg), pipeline_problems(part.cfg, part.split)):
        raise UserError(problem)


def check_epochs_end(part: RunPart) -> None:
    """Refuse a training by epochs over a sampler that never ends one."""
    if isinstance(part.loop, EpochBasedTrainLoop):
        refuse_endless_epochs(part.loop)


def check_channels(part: RunPart) -> None:
    """Check that the model takes as many channels as the first image has; the message names the image."""
    for view in views(part.sample):
        if getattr(view['inputs'], 'ndim', None) != 3:  # a volume, or what a packing of the user's own returns
            continue
        try:
            check_image_channels(part.model, view['inputs'].permute(1, 2, 0).numpy())
        except UserError as error:
            raise UserError(f'{view["data_samples"].get("img_path", "the first image")}: {error}') from None


def warn_of_shared_images(training: RunPart, validation: RunPart) -> None:
    """Warn of validation images that are training images, too; only the main process lists the images."""
    if is_main_process() and (note := shared_by_path(training.dataset, validation.dataset)):
        print_log(note, 'current', logging.WARNING)


# Each check takes a part of the run and raises a UserError. The first ones need no data.
MODEL_CHECKS = (
    check_epochs_end,
    check_map_channels,
    check_batch_norms,
    check_single_channel,
    check_class_weights,
    check_mixing_of_labels,
)
DATA_CHECKS = (check_settings, check_channels, check_image_sizes, check_class_order, check_num_labels)
SCORE_CHECKS = (
    check_annotation_file,
    check_masks,
    check_output_dir,
    check_ignored_labels,
    check_label_map,
    check_meta_keys,
)


@HOOKS.register_module()
class CheckRunHook(Hook):
    """Refuses a run that would fail late, and warns if the schedule and the run differ in length.

    Before a training, it checks the model (:data:`MODEL_CHECKS`), the data of the training and of the validation
    (:data:`DATA_CHECKS`), what the metrics read (:data:`SCORE_CHECKS`), and the scores by which checkpoints are chosen.
    Before a validation or a test without training, it checks their data and their metrics.

    Raises:
        UserError: If a check fails; the message names the setting and its right value.
    """

    priority = 'VERY_HIGH'  # before CompileBackboneHook, since the backbone is run once

    def before_run(self, runner: Runner) -> None:
        """Check a training before its weights are downloaded."""
        loop = training_loop(runner)
        if not isinstance(loop, BaseLoop):  # the run is a validation or a test
            return
        training = part_of(runner, 'train', loop)
        _check(training, (*MODEL_CHECKS, *DATA_CHECKS))
        if runner.val_loop is not None:
            validation = part_of(runner, 'val')
            _check(validation, (*DATA_CHECKS, *SCORE_CHECKS))
            check_metrics(runner, 'val')
            check_monitored_scores(runner)
            check_same_labels(training, validation)
            warn_of_shared_images(training, validation)
        warn_of_schedule(runner, loop)

    def before_val(self, runner: Runner) -> None:
        """Check a validation that is not part of a training."""
        if not isinstance(training_loop(runner), BaseLoop):
            _check(part_of(runner, 'val'), (*DATA_CHECKS, *SCORE_CHECKS))
            check_metrics(runner, 'val')

    def before_test(self, runner: Runner) -> None:
        """Check a test, and its test-time augmentation."""
        check_test_time_augmentation(runner.model)
        _check(part_of(runner, 'test'), (*DATA_CHECKS, *SCORE_CHECKS))
        check_metrics(runner, 'test')


def _check(part: RunPart, checks: Sequence[Callable[[RunPart], None]]) -> None:
    for check in checks:
        check(part)
