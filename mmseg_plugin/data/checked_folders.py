"""What ADE20K's folders and your own have in common: checks of each sample, and tests without masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from mmseg.datasets import BaseSegDataset

from backbones.errors import UserError
from mmengine_plugin.data.checked_samples import CheckedSamples

from .check_labels import background
from .load_masks import without_masks


class CheckedFolders(CheckedSamples, BaseSegDataset):
    """mmseg's BaseSegDataset, which checks each label map that it loads.

    Args:
        *args: Arguments of BaseSegDataset.
        pipeline: Transforms. In a test without masks, LoadAnnotations is left out.
        data_prefix: Folders of images, ``img_path``, and of masks, ``seg_map_path``. Without the latter, or if it is
            ``None``, there are no masks.
        test_mode: Whether the data set is for a validation or a test.
        **kwargs: Arguments of BaseSegDataset.
    """

    def __init__(
        self,
        *args,
        pipeline: Sequence = (),
        data_prefix: Mapping[str, str | None] = MappingProxyType(dict(img_path='', seg_map_path='')),
        test_mode: bool = False,
        **kwargs,
    ) -> None:
        folders = {key: folder for key, folder in data_prefix.items() if folder is not None}
        if test_mode and 'seg_map_path' not in folders:
            pipeline = without_masks(pipeline)
        super().__init__(*args, pipeline=pipeline, data_prefix=folders, test_mode=test_mode, **kwargs)

    def refuse_sample(self, info: Mapping, sample: Mapping) -> None:
        """Refuse a label map if its size is not that of its image, or if it has labels that belong to no class."""
        if 'gt_sem_seg' not in sample['data_samples']:
            return
        labels, path = sample['data_samples'].gt_sem_seg.data, info['seg_map_path']
        sizes = [tuple(sample['inputs'].shape[-2:])]
        if original := sample['data_samples'].get('ori_shape'):
            sizes.append(tuple(original))  # a test pipeline resizes the image, but not its label map
        if len(labels) != 1 or tuple(labels.shape[1:]) not in sizes:
            raise UserError(
                f'label map {path} is {"x".join(map(str, labels.shape))} after the pipeline, and its image is '
                f'{sizes[0][0]}x{sizes[0][1]}: it must have the size of the image and one channel of class indices'
            )
        classes = len(self.metainfo['classes'])
        unknown = labels[(labels >= classes) & (labels != self.ignore_index)]
        if len(unknown):
            raise UserError(self._strange_label(path, int(unknown[0]), classes))

    def _strange_label(self, path: str, label: int, classes: int) -> str:
        return (
            f'label map {path} has label {label}, but {classes} classes end at {classes - 1} ({self.ignore_index} '
            f'is ignored; reduce_zero_label is {self.reduce_zero_label}). For masks of 0 and 255, use FolderDataset '
            'with values=(0, 255)'
        )


def refuse_one_class(classes: Sequence[str]) -> None:
    """Refuse a single class: each pixel would be of this class, the loss 0, and the score 100.

    Raises:
        UserError: If there is only one class.
    """
    if len(classes) == 1:
        raise UserError(
            f'metainfo: classes={tuple(classes)} has one class, so every pixel is of it: {background(classes)}'
        )
