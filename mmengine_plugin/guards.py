"""What stops a run, or is said of it, before bad data or a wrong head ruins it."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from backbones.errors import UserError

from .draws import Draw, random_numbers
from .faults import Fault, load, transform_of


class GuardedSamples:
    """A mixin for data sets of mmengine: no sample fails without its file's name, and none is left out silently.

    Args:
        skip_bad_samples: Leave a sample that cannot be used out of the training and draw another in its place;
            :class:`SkippedSamplesHook` counts and lists them. Otherwise, and always in validation and tests, the first
            one stops the run.
    """

    def __init__(self, *args, skip_bad_samples: bool = False, **kwargs) -> None:
        self.skip_bad_samples = skip_bad_samples
        super().__init__(*args, **kwargs)

    def full_init(self) -> None:
        """Load the annotations, and make a list of the samples left out that the loader's processes share."""
        super().full_init()
        if not hasattr(self, 'skipped'):
            self.skipped = torch.zeros(len(self), dtype=torch.bool).share_memory_()

    def __getitem__(self, idx: int) -> dict:
        """A sample; what its pipeline draws at random is a function of the draw of the run, if the index is one."""
        with random_numbers(*idx.key) if isinstance(idx, Draw) else contextlib.nullcontext():
            return super().__getitem__(int(idx))

    def prepare_data(self, idx: int) -> dict | None:
        """A sample after the pipeline; ``None``, for which mmengine draws another, where it is left out.

        Raises:
            UserError: If the sample cannot be used, unless it may be left out. An error of another kind has a note with
                the image's name.
        """
        if self.skip_bad_samples and not self.test_mode and self.skipped.all():
            raise UserError(f'none of the {len(self)} training samples can be used; check_dataset.py says why')
        info = self.get_data_info(idx)
        try:
            sample = super().prepare_data(idx)
            if sample is not None and 'data_samples' in sample:
                self.refuse_sample(info, sample)
            return sample
        except Exception as error:
            paths = filter(None, (info['img_path'], info.get('seg_map_path')))
            loaded = (load(path, 'unchanged', transform_of(self, LoadImageFromFile)) for path in paths)
            fault = next((file for file in loaded if isinstance(file, Fault)), None)
            reason = f'{fault.file}: {fault.kind}: {fault.what}; {fault.cure}' if fault else str(error) or repr(error)
            if self.skip_bad_samples and not self.test_mode:
                self.skipped[idx] = True
                print_log(f'{info["img_path"]} is left out [{reason}]', 'current', logging.WARNING)
                return None
            if fault:
                raise UserError(reason) from error
            if not isinstance(error, UserError):
                error.add_note(f'while loading {info["img_path"]}')
            raise

    def refuse_sample(self, info: Mapping, sample: Mapping) -> None:
        """Raise a :class:`UserError` if what came out of the pipeline cannot be right.

        Args:
            info: The sample's entry in the list of data.
            sample: ``inputs`` and ``data_samples``.
        """


@HOOKS.register_module()
class SkippedSamplesHook(Hook):
    """List the samples that ``skip_bad_samples`` left out, before each validation and at the end of each epoch."""

    datasets: Sequence[GuardedSamples] = ()

    def before_train(self, runner: Runner) -> None:
        """Find the data sets."""
        self.datasets = list(_guarded(runner.train_dataloader.dataset))

    def before_val_epoch(self, runner: Runner) -> None:
        """List those of a training so far; one by iterations has no other epochs."""
        self._list(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """List those of a training so far."""
        self._list(runner)

    def _list(self, runner: Runner) -> None:
        for dataset in self.datasets:
            # each process of a launcher has met its own share
            parts = all_gather_object(dataset.skipped.nonzero().flatten().tolist())
            if skipped := sorted({index for part in parts for index in part}):
                paths = '\n  '.join(dataset.get_data_info(index)['img_path'] for index in skipped)
                runner.logger.warning(
                    f'{len(skipped)} of {len(dataset)} training samples could not be used and were left out:\n  {paths}'
                )


def _guarded(dataset: object) -> Iterator[GuardedSamples]:
    """The guarded data sets inside mmengine's wrappers."""
    if isinstance(dataset, GuardedSamples):
        yield dataset
    for part in (getattr(dataset, 'dataset', None), *getattr(dataset, 'datasets', ())):
        yield from _guarded(part) if part is not None else ()


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
        refuse_other_classes(runner.model, dataset.metainfo['classes'], type(dataset).__name__)


def refuse_other_classes(model: nn.Module, classes: Sequence[str], source: str) -> None:
    """Raise a :class:`UserError` that names the head of a model whose ``num_classes`` is not the number of classes."""
    listed = ', '.join(classes[:5]) + (', ...' if len(classes) > 5 else '')
    for name, module in model.named_modules():
        count = getattr(module, 'num_classes', None)
        if count not in (None, len(classes)) and re.search(r'(bbox|mask|decode|auxiliary)_head(\.\d+)?$', name):
            raise UserError(
                f'model.{name}.num_classes is {count}, but {source} has {len(classes)} classes '
                f'({listed}): set num_classes in the heads, and metainfo=dict(classes=(...)) in every '
                "data loader's dataset"
            )
