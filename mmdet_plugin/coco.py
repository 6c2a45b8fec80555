"""COCO-format data, checked before training starts."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.registry import DATASETS
from mmengine.fileio import list_dir_or_file

from backbones.errors import UserError, did_you_mean


class CheckedCOCO(COCO):
    """mmdet's COCO reader that answers for the classes of a config, where the original leaves out what it lacks."""

    def __init__(self, annotation_file: str) -> None:
        try:
            super().__init__(annotation_file)
        except json.JSONDecodeError as error:
            raise UserError(f'{annotation_file} is damaged or no JSON: {error}') from error
        self.annotation_file = annotation_file

    def get_cat_ids(self, cat_names: Sequence[str], **kwargs) -> list[int]:
        """Category ids in the order of ``cat_names``; :class:`UserError` if names are unknown or in another order."""
        if isinstance(cat_names, str):
            raise UserError(
                f'metainfo: classes={cat_names!r} must be a tuple; with one class, classes=({cat_names!r},)'
            )
        there = [category['name'] for category in self.dataset['categories']]
        unknown = [f'{name!r}{did_you_mean(name, there)}' for name in cat_names if name not in there]
        if unknown:
            raise UserError(
                f'{self.annotation_file} has no category {", ".join(unknown[:4])}'
                f'{f" and {len(unknown) - 4} more" if len(unknown) > 4 else ""}; it has {_listed(there)}. '
                "Set metainfo=dict(classes=(...)) in every data loader's dataset, and num_classes in the heads"
            )
        in_order = [name for name in there if name in cat_names]
        if list(cat_names) != in_order:
            raise UserError(
                f'{self.annotation_file} lists the classes in another order than the config, and mmdet numbers them '
                f'in the order of the file: write metainfo=dict(classes={tuple(in_order)})'
            )
        return super().get_cat_ids(cat_names=cat_names, **kwargs)


@DATASETS.register_module()
class CheckedCocoDataset(CocoDataset):
    """mmdet's CocoDataset that says what is wrong with a data set, where the original trains on something else.

    mmdet numbers the classes in the order of the annotation file and leaves out those that it does not find there,
    so that labels and names part without a word, and a set from which nothing is left ends in numpy's "need at least
    one array to concatenate".
    """

    COCOAPI = CheckedCOCO

    def load_data_list(self) -> list[dict]:
        """Load the annotations.

        Returns:
            One dict for each image, as mmdet's.

        Raises:
            UserError: If the annotation file, the image folder or an image is not there, or the classes do not fit.
        """
        if self.backend_args is not None:  # not on this machine
            return super().load_data_list()
        for what, path in (('annotation file', self.ann_file), ('image folder', self.data_prefix['img'])):
            if not Path(path).exists():
                raise UserError(
                    f'{what} {path} is not there (seen from {Path.cwd()}): put or link the data to {self.data_root}, '
                    'or set data_root in the data loaders of the config; README.md shows the layout'
                )
        data_list = super().load_data_list()
        there = set(list_dir_or_file(self.data_prefix['img'], list_dir=False, recursive=True))
        lacking = [
            d['img_path'] for d in data_list if os.path.relpath(d['img_path'], self.data_prefix['img']) not in there
        ]
        if lacking:
            raise UserError(
                f'{self.data_prefix["img"]} lacks {len(lacking)} of the {len(data_list)} images of {self.ann_file}, '
                f'the first is {lacking[0]}'
            )
        return data_list

    def filter_data(self) -> list[dict]:
        """Leave out images without objects, where ``filter_cfg`` says so; refuse if none is left."""
        kept = super().filter_data()
        if not kept:
            raise UserError(
                f'{self.ann_file}: none of its {len(self.data_list)} images is left after '
                f'filter_cfg={self.filter_cfg} for classes={self.metainfo["classes"]}'
            )
        return kept


def _listed(names: Sequence[str]) -> str:
    return ', '.join(names[:10]) + (f' and {len(names) - 10} more' if len(names) > 10 else '')
