"""COCO-format data, checked before training starts."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.registry import DATASETS
from mmengine.fileio import list_dir_or_file

from backbones.errors import UserError, did_you_mean
from mmengine_plugin.data.checked_samples import CheckedSamples
from mmengine_plugin.data.image_checks import Problem


class CheckedCOCO(COCO):
    """mmdet's reader of annotation files, which refuses class names that do not fit. The original ignores them."""

    def __init__(self, annotation_file: str) -> None:
        try:
            super().__init__(annotation_file)
        except json.JSONDecodeError as error:
            raise UserError(f'{annotation_file} is damaged or not JSON: {error}') from error
        self.annotation_file = annotation_file

    def get_cat_ids(self, cat_names: Sequence[str], **kwargs) -> list[int]:
        """The category ids of class names.

        Raises:
            UserError: If names are not in the file, or are in another order there.
        """
        names = [category['name'] for category in self.dataset['categories']]
        problems = list(class_problems(self.annotation_file, cat_names, names))
        if problems:
            details = '; '.join(problem.detail for problem in problems[:4])
            if len(problems) > 4:
                details += f' and {len(problems) - 4} more'
            raise UserError(f'{problems[0].file}: {problems[0].kind}: {details}; {problems[0].fix}')
        return super().get_cat_ids(cat_names=cat_names, **kwargs)


@DATASETS.register_module()
class CheckedCocoDataset(CheckedSamples, CocoDataset):
    """mmdet's CocoDataset, which refuses classes and files that do not fit each other.

    The original numbers the classes in the order of the annotation file and leaves out those that the file does not
    have: labels then belong to other names, and there is no message. If no image is left, it fails with numpy's "need
    at least one array to concatenate".

    Args:
        *args: Arguments of CocoDataset.
        skip_bad_samples: If true, a training sample that cannot be used is left out, and another one takes its place.
            If false, and always in validation and tests, the first such sample stops the run.
        **kwargs: Arguments of CocoDataset.
    """

    COCOAPI = CheckedCOCO

    def load_data_list(self) -> list[dict]:
        """Load the annotations.

        Returns:
            One dict for each image, as mmdet makes it.

        Raises:
            UserError: If the annotation file, the image folder or an image is missing, or if the classes do not fit.
        """
        if self.backend_args is not None:  # the files may be on another machine
            return super().load_data_list()
        for what, path in (('annotation file', self.ann_file), ('image folder', self.data_prefix['img'])):
            if not Path(path).exists():
                raise UserError(
                    f'{what} {path} is not there (seen from {Path.cwd()}): put or link the data to {self.data_root}, '
                    'or set data_root in the data loaders of the config; docs/data.md shows the layout'
                )
        data_list = super().load_data_list()
        folder = self.data_prefix['img']
        files = set(list_dir_or_file(folder, list_dir=False, recursive=True))
        missing = [d['img_path'] for d in data_list if os.path.relpath(d['img_path'], folder) not in files]
        if missing:
            raise UserError(
                f'{folder} lacks {len(missing)} of the {len(data_list)} images of {self.ann_file}, the first is '
                f'{missing[0]}'
            )
        return data_list

    def filter_data(self) -> list[dict]:
        """Leave out images as ``filter_cfg`` says, such as those without objects.

        Raises:
            UserError: If no image is left.
        """
        kept = super().filter_data()
        if not kept:
            raise UserError(
                f'{self.ann_file}: none of its {len(self.data_list)} images is left after '
                f'filter_cfg={self.filter_cfg} for classes={self.metainfo["classes"]}'
            )
        return kept

    def refuse_sample(self, info: Mapping, sample: Mapping) -> None:
        """Refuse an image if its size is not that in the annotation file."""
        found, expected = sample['data_samples'].get('ori_shape'), (info['height'], info['width'])
        if found and tuple(found) != expected:
            raise UserError(
                f'image {info["img_path"]} is {found[0]}x{found[1]} (height x width), but {self.ann_file} says '
                f'{expected[0]}x{expected[1]}: its annotations would not match its objects'
            )


def class_problems(file: str, classes: Sequence[str], names: Sequence[str]) -> Iterator[Problem]:
    """Compare the classes of a config with the category names of an annotation file.

    Args:
        file: Annotation file.
        classes: Classes of the config, in its order.
        names: Names of the file's categories, in its order.

    Yields:
        The problems: names that occur twice, unknown classes, or another order.
    """
    if isinstance(classes, str):
        yield Problem(
            file, 'classes that are not a tuple', f'metainfo has {classes!r}', f'write classes=({classes!r},)'
        )
        return
    repeated = [name for name, count in Counter(names).items() if count > 1]
    for name in repeated:
        yield Problem(file, 'duplicate category name', f'it has {name!r} twice', 'give each category its own name')
    if repeated:
        return
    listed = ', '.join(names[:10])
    if len(names) > 10:
        listed += f' and {len(names) - 10} more'
    unknown = [name for name in classes if name not in names]
    for name in unknown:
        yield Problem(
            file,
            'class that the file does not have',
            f'it has no category {name!r}{did_you_mean(name, names)}',
            f"it has {listed}: set metainfo=dict(classes=(...)) in every data loader's dataset, and num_classes in "
            'the heads',
        )
    in_order = tuple(name for name in names if name in classes)
    if not unknown and tuple(classes) != in_order:
        yield Problem(
            file,
            'classes in another order than in the file',
            'mmdet numbers them in the order of the file',
            f'write metainfo=dict(classes={in_order})',
        )
