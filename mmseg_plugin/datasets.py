"""Data sets of images and label maps in folders, ADE20K's and your own, checked before training starts."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.fileio import list_dir_or_file
from mmseg.datasets import ADE20KDataset, BaseSegDataset
from mmseg.registry import DATASETS
from PIL import Image

from backbones.errors import UserError, did_you_mean
from mmengine_plugin.data.checked_samples import CheckedSamples

NO_CLASS = 254  # a label that is refused; no data set has so many classes


class CheckedFolders(CheckedSamples, BaseSegDataset):
    """mmseg's BaseSegDataset, which checks its folders before training starts."""

    def load_data_list(self) -> list[dict]:
        """List the images and their label maps.

        Returns:
            One dict for each image, as mmseg makes it.

        Raises:
            UserError: If a folder is missing, holds no image, holds images that ``img_suffix`` leaves out, or lacks the
                label map of an image.
        """
        if self.backend_args is not None:  # the files may be on another machine
            return super().load_data_list()
        folders = {what: self.data_prefix.get(what) for what in ('img_path', 'seg_map_path')}
        for what, folder in folders.items():
            if folder and not Path(folder).is_dir():
                raise UserError(
                    f'{what} {folder} is not there (seen from {Path.cwd()}): put or link the data to {self.data_root}, '
                    'or set data_root in the data loaders of the config; docs/data.md shows the layout'
                )
        data_list = super().load_data_list()
        if not self.ann_file:  # a list of images would leave out other files on purpose
            readable = Image.registered_extensions()
            others = [
                name
                for name in list_dir_or_file(folders['img_path'], list_dir=False, recursive=True)
                if not name.endswith(self.img_suffix) and Path(name).suffix.lower() in readable
            ]
            if others or not data_list:
                first = f', the first is {others[0]}' if others else ''
                raise UserError(
                    f'{folders["img_path"]} holds {len(data_list)} images that end in {self.img_suffix!r} and '
                    f'{len(others)} others{first}: set img_suffix in the data loaders to the one ending of all images; '
                    'upper and lower case matter'
                )
        if folders['seg_map_path']:
            files = set(list_dir_or_file(folders['seg_map_path'], recursive=True))
            names = [str(Path(d['seg_map_path']).relative_to(folders['seg_map_path'])) for d in data_list]
            missing = [name for name in names if name not in files]
            if missing:
                raise UserError(
                    f'{folders["seg_map_path"]} lacks the label maps of {len(missing)} of {len(data_list)} images, '
                    f'the first is {missing[0]}'
                )
        return data_list

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


@DATASETS.register_module()
class CheckedADE20KDataset(CheckedFolders, ADE20KDataset):
    """mmseg's ADE20KDataset, checked before training starts.

    Args:
        *args: Arguments of ADE20KDataset.
        skip_bad_samples: If true, a training sample that cannot be used is left out, and another one takes its place.
            If false, and always in validation and tests, the first such sample stops the run.
        **kwargs: Arguments of ADE20KDataset.
    """

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> dict | None:
        """The labels of ``new_classes`` by those of ADE20K; ``None`` if there are no new classes.

        Raises:
            UserError: If ADE20K does not have one of the new classes.
        """
        known = cls.METAINFO['classes']
        unknown = [f'{name!r}{did_you_mean(name, known)}' for name in new_classes or () if name not in known]
        if unknown:
            raise UserError(f'metainfo: ADE20K has no class {", ".join(unknown[:4])}')
        return super().get_label_map(new_classes)


@DATASETS.register_module()
class FolderDataset(CheckedFolders):
    """Your own images and masks: ``<data_prefix.img_path>/a.jpg`` and ``<data_prefix.seg_map_path>/a.png``.

    Masks have one channel, or a palette. Each pixel holds the index of its class, or one of ``values``.

    Args:
        *args: Arguments of BaseSegDataset.
        values: The pixel value of each class, in the order of ``metainfo['classes']``, for example ``(0, 255)`` for
            black and white masks. If ``None``, the pixels hold the indices of the classes.
        skip_bad_samples: If true, a training sample that cannot be used is left out, and another one takes its place.
            If false, and always in validation and tests, the first such sample stops the run.
        **kwargs: Arguments of BaseSegDataset.

    Raises:
        UserError: If there are no class names, or if their number is not the number of values.
    """

    def __init__(self, *args, values: Sequence[int] | None = None, **kwargs) -> None:
        self.values = values
        super().__init__(*args, **kwargs)

    def _strange_label(self, path: str, label: int, classes: int) -> str:
        if self.values is None:
            return super()._strange_label(path, label, classes)
        return (
            f'label map {path} has pixels that are none of values={self.values}: it may be a JPEG, or may have been '
            'resized smoothly. Masks of 1 bit, or with a palette, hold indices and need no values'
        )

    def get_label_map(self, new_classes: Sequence[str] | None = None) -> dict[int, int] | None:
        """The class indices by pixel value; ``None`` if the pixels hold the indices."""
        if not new_classes or isinstance(new_classes, str):
            raise UserError(
                f"metainfo: classes={new_classes!r} must name the classes: metainfo=dict(classes=('a', 'b'))"
            )
        if self.values is None:
            return None
        distinct = isinstance(self.values, Sequence) and len(set(self.values)) == len(self.values)
        if not distinct or len(self.values) != len(new_classes):
            raise UserError(f'values={self.values} must be one pixel value for each of the classes {new_classes}')
        if self.reduce_zero_label:
            raise UserError('reduce_zero_label and values exclude each other: leave out reduce_zero_label')
        # mmseg leaves other values as they are: one that is the index of a class would be taken for this class
        label_map = dict.fromkeys(range(len(new_classes)), NO_CLASS)
        return label_map | {value: index for index, value in enumerate(self.values)}
