"""Images and their label maps in folders, ADE20K's and one's own, checked before training starts."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.fileio import list_dir_or_file
from mmseg.datasets import ADE20KDataset, BaseSegDataset
from mmseg.registry import DATASETS
from PIL import Image

from backbones.errors import UserError, did_you_mean
from mmengine_plugin.guards import GuardedSamples


class CheckedFolders(GuardedSamples, BaseSegDataset):
    """mmseg's BaseSegDataset that says what is wrong with the folders before the first epoch meets it."""

    def load_data_list(self) -> list[dict]:
        """List the images and their label maps.

        Returns:
            One dict for each image, as mmseg's.

        Raises:
            UserError: If a folder is not there, holds no image, holds images that ``img_suffix`` leaves out, or lacks
                the label map of an image.
        """
        if self.backend_args is not None:  # not on this machine
            return super().load_data_list()
        folders = {what: self.data_prefix.get(what) for what in ('img_path', 'seg_map_path')}
        for what, folder in folders.items():
            if folder and not Path(folder).is_dir():
                raise UserError(
                    f'{what} {folder} is not there (seen from {Path.cwd()}): put or link the data to {self.data_root}, '
                    'or set data_root in the data loaders of the config; docs/data.md shows the layout'
                )
        data_list = super().load_data_list()
        if not self.ann_file:  # which would name the images
            readable = Image.registered_extensions()
            others = [
                name
                for name in list_dir_or_file(folders['img_path'], list_dir=False, recursive=True)
                if not name.endswith(self.img_suffix) and Path(name).suffix.lower() in readable
            ]
            if others or not data_list:
                raise UserError(
                    f'{folders["img_path"]} holds {len(data_list)} images that end in {self.img_suffix!r} and '
                    f'{len(others)} others{f", the first is {others[0]}" if others else ""}: set img_suffix in the '
                    'data loaders to the one ending of all images, upper and lower case as they are'
                )
        if folders['seg_map_path']:
            there = set(list_dir_or_file(folders['seg_map_path'], recursive=True))
            named = [str(Path(d['seg_map_path']).relative_to(folders['seg_map_path'])) for d in data_list]
            lacking = [name for name in named if name not in there]
            if lacking:
                raise UserError(
                    f'{folders["seg_map_path"]} lacks the label maps of {len(lacking)} of {len(data_list)} images, '
                    f'the first is {lacking[0]}'
                )
        return data_list

    def refuse_sample(self, info: Mapping, sample: Mapping) -> None:
        """Refuse a label map of another size than its image, and labels that are no class."""
        if 'gt_sem_seg' not in sample['data_samples']:
            return
        labels, path = sample['data_samples'].gt_sem_seg.data, info['seg_map_path']
        image, original = tuple(sample['inputs'].shape[-2:]), sample['data_samples'].get('ori_shape')
        if tuple(labels.shape) not in (
            (1, *image),
            (1, *(original or image)),
        ):  # a test pipeline resizes the image alone
            raise UserError(
                f'label map {path} is {"x".join(map(str, labels.shape))} after the pipeline, where its image is '
                f'{image[0]}x{image[1]}: it must be as large as the image and have one channel of class indices'
            )
        classes = len(self.metainfo['classes'])
        unknown = labels[(labels >= classes) & (labels != self.ignore_index)]
        if len(unknown):
            raise UserError(self._strange_label(path, int(unknown[0]), classes))

    def _strange_label(self, path: str, label: int, classes: int) -> str:
        return (
            f'label map {path} has label {label}, but {classes} classes end at {classes - 1} (and {self.ignore_index} '
            f'is ignored, reduce_zero_label is {self.reduce_zero_label}). For masks of 0 and 255, use FolderDataset '
            'and its values=(0, 255)'
        )


@DATASETS.register_module()
class CheckedADE20KDataset(CheckedFolders, ADE20KDataset):
    """mmseg's ADE20KDataset, checked."""

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> dict | None:
        """ADE20K's labels to those of ``new_classes``; :class:`UserError` for a name that ADE20K does not have."""
        known = cls.METAINFO['classes']
        unknown = [f'{name!r}{did_you_mean(name, known)}' for name in new_classes or () if name not in known]
        if unknown:
            raise UserError(f'metainfo: ADE20K has no class {", ".join(unknown[:4])}')
        return super().get_label_map(new_classes)


@DATASETS.register_module()
class FolderDataset(CheckedFolders):
    """One's own images and masks: ``<data_prefix.img_path>/a.jpg`` and ``<data_prefix.seg_map_path>/a.png``.

    Masks have one channel (or a palette) and hold, at each pixel, the index of its class or one of ``values``.

    Args:
        values: The pixel value of each class, in the order of ``metainfo['classes']``, for example ``(0, 255)`` for
            black and white masks; the indices themselves where ``None``.

    Raises:
        UserError: If the class names are missing, or their number is not that of the values.
    """

    def __init__(self, *args, values: Sequence[int] | None = None, **kwargs) -> None:
        self.values = values
        super().__init__(*args, **kwargs)

    def _strange_label(self, path: str, label: int, classes: int) -> str:
        if self.values is None:
            return super()._strange_label(path, label, classes)
        return (
            f'label map {path} has pixels that are none of values={self.values}: it may be a JPEG or resized smoothly; '
            'masks of 1 bit and those with a palette hold the indices 0 and 1, and need no values'
        )

    def get_label_map(self, new_classes: Sequence[str] | None = None) -> dict[int, int] | None:
        """Pixel values to class indices; ``None`` where they are the same."""
        if not new_classes or isinstance(new_classes, str):
            raise UserError(
                f"metainfo: classes={new_classes!r} must name the classes: metainfo=dict(classes=('a', 'b'))"
            )
        if self.values is None:
            return None
        if not isinstance(self.values, Sequence) or not len(set(self.values)) == len(self.values) == len(new_classes):
            raise UserError(f'values={self.values} must be one pixel value for each of the classes {new_classes}')
        if self.reduce_zero_label:
            raise UserError('reduce_zero_label and values exclude each other: leave out reduce_zero_label')
        label_map = {value: index for index, value in enumerate(self.values)}
        # mmseg leaves other values as they are: those that would pass for a class become one that is refused
        return label_map | {index: 254 for index in range(len(new_classes)) if index not in label_map}
