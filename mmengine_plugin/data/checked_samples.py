"""Samples that are checked while a run loads them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import torch
from mmcv.transforms import LoadImageFromFile
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from backbones.errors import UserError

from .image_checks import Problem, load_image, transform_of
from .narrow_images import narrow_problem

OLD_METAINFO = dict(CLASSES='classes', PALETTE='palette')  # keys of release candidates of mmdet 3.0 and mmseg 1.0


class CheckedSamples:
    """A mixin for mmengine's data sets: every error names its file, and no sample is left out silently.

    Args:
        *args: Arguments of the data set.
        skip_bad_samples: If true, a training sample that cannot be used is left out, another one takes its place, and
            :class:`SkippedSamplesHook` lists it. If false, and always in validation and tests, the first such sample
            stops the run.
        **kwargs: Arguments of the data set.
    """

    def __init__(self, *args, skip_bad_samples: bool = False, **kwargs) -> None:
        self.skip_bad_samples = skip_bad_samples
        if isinstance(kwargs.get('metainfo'), Mapping):
            kwargs['metainfo'] = {OLD_METAINFO.get(key, key): value for key, value in kwargs['metainfo'].items()}
        super().__init__(*args, **kwargs)

    def full_init(self) -> None:
        """Load the annotations, and make a list of skipped samples that the data loader's workers share."""
        super().full_init()
        if not hasattr(self, 'skipped'):
            self.skipped = torch.zeros(len(self), dtype=torch.bool).share_memory_()

    def prepare_data(self, idx: int) -> dict | None:
        """Run the pipeline on a sample.

        Returns:
            The sample, or ``None`` if it is left out; mmengine then takes another one.

        Raises:
            UserError: If the sample cannot be used and may not be left out. Errors of other kinds get a note with the
                name of the image.
        """
        if self.skip_bad_samples and not self.test_mode and self.skipped.all():
            raise UserError(f'none of the {len(self)} training samples can be used; tools/check_dataset.py says why')
        info = self.get_data_info(idx)
        try:
            sample = super().prepare_data(idx)
            for view in views(sample):
                self.refuse_sample(info, view)
            return sample
        except Exception as error:
            problem = self._file_problem(info)
            reason = str(problem or error) or repr(error)
            if self.skip_bad_samples and not self.test_mode:
                self.skipped[idx] = True
                print_log(f'{info["img_path"]} is left out [{reason}]', 'current', logging.WARNING)
                return None
            if problem:
                raise UserError(reason) from error
            if not isinstance(error, UserError):
                error.add_note(f'while loading {info["img_path"]}')
            raise

    def _file_problem(self, info: Mapping) -> Problem | None:
        """Why the image or the label map of a sample cannot be used; ``None`` if both files can."""
        loader = transform_of(self, LoadImageFromFile)
        image = load_image(info['img_path'], getattr(loader, 'color_type', 'unchanged'), loader)
        if isinstance(image, Problem):
            return image
        if info.get('seg_map_path'):
            labels = load_image(info['seg_map_path'], 'unchanged', loader)
            if isinstance(labels, Problem):
                return labels
        return narrow_problem(info['img_path'], image.pixels.shape[:2], self.pipeline.transforms)

    def refuse_sample(self, info: Mapping, sample: Mapping) -> None:
        """Check what the pipeline returns; a data set overrides this.

        Args:
            info: Entry of the sample in the data list.
            sample: What the pipeline returned: ``inputs`` and ``data_samples``. With test-time augmentation, this
                method is called for each view of the image.

        Raises:
            UserError: If image and labels do not fit each other.
        """


@HOOKS.register_module()
class SkippedSamplesHook(Hook):
    """Lists the samples that ``skip_bad_samples`` left out, before each validation and at the end of each epoch."""

    datasets: Sequence[CheckedSamples] = ()

    def before_train(self, runner: Runner) -> None:
        """Find the data sets."""
        self.datasets = list(_checked_sets(runner.train_dataloader.dataset))

    def before_val_epoch(self, runner: Runner) -> None:
        """List the samples that were left out so far; a training by iterations has no other epochs."""
        self._list(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """List the samples that were left out so far."""
        self._list(runner)

    def _list(self, runner: Runner) -> None:
        for dataset in self.datasets:
            # each process has loaded only its own share of the samples
            parts = all_gather_object(dataset.skipped.nonzero().flatten().tolist())
            if skipped := sorted({index for part in parts for index in part}):
                paths = '\n  '.join(dataset.get_data_info(index)['img_path'] for index in skipped)
                runner.logger.warning(
                    f'{len(skipped)} of {len(dataset)} training samples could not be used and were left out:\n  {paths}'
                )


def views(sample: Mapping | None) -> Iterator[dict]:
    """The packed images of a sample: one, or several with test-time augmentation or in branches.

    Args:
        sample: What a pipeline returns.

    Yields:
        ``inputs`` and ``data_samples`` of each image.
    """
    if sample is None or 'data_samples' not in sample:
        return
    inputs, packed = sample['inputs'], sample['data_samples']
    if isinstance(packed, Mapping):  # mmdet's MultiBranch
        inputs, packed = list(inputs.values()), list(packed.values())
    if not isinstance(packed, list):
        inputs, packed = [inputs], [packed]
    for image, data_sample in zip(inputs, packed, strict=True):
        if data_sample is not None:  # a branch that the sample does not take
            yield dict(inputs=image, data_samples=data_sample)


def _checked_sets(dataset: object) -> Iterator[CheckedSamples]:
    """The checked data sets inside mmengine's wrappers."""
    if isinstance(dataset, CheckedSamples):
        yield dataset
    elif hasattr(dataset, 'dataset'):
        yield from _checked_sets(dataset.dataset)
    else:
        for part in getattr(dataset, 'datasets', ()):
            yield from _checked_sets(part)
