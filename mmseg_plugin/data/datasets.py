"""Data sets of images and label maps in folders, ADE20K's and your own, checked before training starts."""

from collections.abc import Sequence
from pathlib import Path

from mmengine.fileio import list_dir_or_file
from mmseg.datasets import ADE20KDataset
from mmseg.registry import DATASETS
from PIL import Image

from backbones.errors import UserError, did_you_mean

from .checked_folders import CheckedFolders, refuse_one_class
from .color_masks import IGNORED, NO_CLASS, RGB
from .load_masks import with_masks
from .pairs import find_pairs


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
            UserError: If ADE20K does not have one of the new classes, or if there is only one.
        """
        refuse_one_class(new_classes or ())
        known = cls.METAINFO['classes']
        unknown = [f'{name!r}{did_you_mean(name, known)}' for name in new_classes or () if name not in known]
        if unknown:
            raise UserError(f'metainfo: ADE20K has no class {", ".join(unknown[:4])}')
        return super().get_label_map(new_classes)

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


@DATASETS.register_module()
class FolderDataset(CheckedFolders):
    """Your own images and masks: ``<data_prefix.img_path>/a.jpg`` and ``<data_prefix.seg_map_path>/a.png``.

    Both may be the same folder, and both may have subfolders. Masks have one channel, a palette, or colours. Each pixel
    holds the index of its class, or one of ``values``. :func:`~mmseg_plugin.data.pairs.find_pairs` says how masks are
    found.

    Args:
        img_suffix: End of the names of images, or a tuple of them, such as ``'_sat.jpg'``. If ``None``, all images are
            used that end in one of torchvision's ``IMG_EXTENSIONS``.
        seg_map_suffix: The same for masks. If ``None``, masks may have any format without losses.
        values: The pixel value of each class, in the order of ``metainfo['classes']``, for example ``(0, 255)`` for
            black and white masks, or ``((0, 0, 0), (220, 40, 40))`` for masks with a colour (red, green, blue) for each
            class. If ``None``, the pixels hold the indices of the classes.
        ignored_values: Pixel values or colours that belong to no class. Losses and scores leave these pixels out. In
            masks without colours, 255 is one of them unless ``values`` has it.
        skip_bad_samples: If true, a training sample that cannot be used is left out, and another one takes its place.
            If false, and always in validation and tests, the first such sample stops the run.
        pipeline: Transforms. LoadAnnotations is replaced by :class:`~mmseg_plugin.data.load_masks.LoadMasks`.
        **kwargs: Arguments of BaseSegDataset.

    Raises:
        UserError: If there are fewer than two classes, if their number is not that of the values, or if an image has no
            mask.
    """

    def __init__(
        self,
        *,
        img_suffix: str | Sequence[str] | None = None,
        seg_map_suffix: str | Sequence[str] | None = None,
        values: Sequence[int] | Sequence[RGB] | None = None,
        ignored_values: Sequence[int] | Sequence[RGB] = (),
        pipeline: Sequence = (),
        **kwargs,
    ) -> None:
        self.values, self.ignored_values = values, ignored_values
        if self.has_colors:
            pipeline = with_masks(pipeline, colors=values, ignored=ignored_values)
        else:
            pipeline = with_masks(pipeline)
        suffixes = dict(img_suffix=img_suffix, seg_map_suffix=seg_map_suffix)
        super().__init__(**suffixes, pipeline=pipeline, **kwargs)

    @property
    def has_colors(self) -> bool:
        """Whether ``values`` are colours."""
        return isinstance(self.values, Sequence) and any(isinstance(value, Sequence) for value in self.values)

    def load_data_list(self) -> list[dict]:
        """List the images and their masks.

        Returns:
            One dict for each image, as mmseg makes it.

        Raises:
            UserError: If a folder is missing or holds no image, or if an image has no mask.
        """
        pairs = find_pairs(self)
        if pairs.problems:
            first = pairs.problems[0]
            alike = sum(problem.kind == first.kind for problem in pairs.problems) - 1
            raise UserError(f'{first}{f" ({alike} more of this kind)" if alike else ""}')
        common = dict(label_map=self.label_map, reduce_zero_label=self.reduce_zero_label)
        return [
            dict(img_path=image, **({} if mask is None else dict(seg_map_path=mask)), **common, seg_fields=[])
            for image, mask in pairs.files
        ]

    def _strange_label(self, path: str, label: int, classes: int) -> str:
        if self.values is None:
            return super()._strange_label(path, label, classes)
        return (
            f'label map {path} has pixels that are none of values={self.values}: it may be a JPEG, or may have been '
            'resized smoothly. Masks of 1 bit, or with a palette, hold indices and need no values'
        )

    def get_label_map(self, new_classes: Sequence[str] | None = None) -> dict[int, int] | None:
        """The class indices by pixel value; ``None`` if the pixels hold the indices, or colours."""
        if not new_classes or isinstance(new_classes, str):
            raise UserError(
                f"metainfo: classes={new_classes!r} must name the classes: metainfo=dict(classes=('a', 'b'))"
            )
        refuse_one_class(new_classes)
        if self.values is None and not self.ignored_values:
            return None
        if self.reduce_zero_label:
            raise UserError('reduce_zero_label and values exclude each other: leave out reduce_zero_label')
        values = range(len(new_classes)) if self.values is None else self.values
        self._check_values(values, new_classes)
        if self.has_colors:
            return None  # LoadMasks turns colours into labels
        # mmseg leaves other values as they are: one that is the index of a class would be taken for this class
        label_map = dict.fromkeys(range(len(new_classes)), NO_CLASS)
        label_map |= {value: index for index, value in enumerate(values)}
        return label_map | dict.fromkeys(self.ignored_values, IGNORED)

    def _check_values(self, values: object, classes: Sequence[str]) -> None:
        """Refuse values that are not one number for each class, or one colour for each class."""
        what = 'colour (red, green, blue)' if self.has_colors else 'pixel value'
        known = _is_color if self.has_colors else _is_number
        distinct = (
            isinstance(values, Sequence) and all(map(known, values)) and len(set(map(str, values))) == len(values)
        )
        if not distinct or len(values) != len(classes):
            raise UserError(f'values={values} must be one {what} for each of the classes {classes}')
        ignored = self.ignored_values
        if not isinstance(ignored, Sequence) or not all(map(known, ignored)):
            raise UserError(f'ignored_values={ignored} must be a list of the same kind as values: one {what} each')
        both = [value for value in self.values or () if value in ignored]
        if both:
            raise UserError(f'{both[0]} is in values and in ignored_values: leave it out of one')


def _is_number(value: object) -> bool:
    return isinstance(value, int) and 0 <= value <= 255


def _is_color(value: object) -> bool:
    return isinstance(value, Sequence) and len(value) == 3 and all(map(_is_number, value))
