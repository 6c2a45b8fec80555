"""COCO-format data, checked before training starts."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.registry import DATASETS
from mmengine.fileio import list_dir_or_file

from backbones.errors import UserError, did_you_mean
from mmengine_plugin.faults import Fault
from mmengine_plugin.guards import GuardedSamples


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
        there = [category['name'] for category in self.dataset['categories']]
        if faults := list(class_faults(self.annotation_file, cat_names, there)):
            what = '; '.join(fault.what for fault in faults[:4]) + (
                f' and {len(faults) - 4} more' if faults[4:] else ''
            )
            raise UserError(f'{faults[0].file}: {faults[0].kind}: {what}. {faults[0].cure}')
        return super().get_cat_ids(cat_names=cat_names, **kwargs)


@DATASETS.register_module()
class CheckedCocoDataset(GuardedSamples, CocoDataset):
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
                    'or set data_root in the data loaders of the config; docs/data.md shows the layout'
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

    def refuse_sample(self, info: Mapping, sample: Mapping) -> None:
        """Refuse an image of another size than its annotations are for."""
        found, said = sample['data_samples'].get('ori_shape'), (info['height'], info['width'])
        if found and tuple(found) != said:
            raise UserError(
                f'image {info["img_path"]} is {found[0]}x{found[1]} (height x width), but {self.ann_file} says '
                f'{said[0]}x{said[1]}: annotations would lie beside their objects'
            )


def class_faults(file: str, classes: Sequence[str], there: Sequence[str]) -> Iterator[Fault]:
    """What does not fit between the classes of a config and the category names of an annotation file, in its order."""
    if isinstance(classes, str):
        yield Fault(file, 'classes that are no tuple', f'metainfo has {classes!r}', f'Write classes=({classes!r},)')
        return
    for name in {name for name in there if there.count(name) > 1}:
        yield Fault(file, 'category name that is not unique', f'it has {name!r} twice', 'Give each a name of its own')
        return
    unknown = [name for name in classes if name not in there]
    for name in unknown:
        yield Fault(
            file,
            'class that is no category of the file',
            f'it has no category {name!r}{did_you_mean(name, there)}',
            f'It has {", ".join(there[:10])}{f" and {len(there) - 10} more" if there[10:] else ""}: set '
            "metainfo=dict(classes=(...)) in every data loader's dataset, and num_classes in the heads",
        )
    in_order = tuple(name for name in there if name in classes)
    if not unknown and tuple(classes) != in_order:
        yield Fault(
            file,
            'classes in another order than the file',
            'mmdet numbers them in the order of the file',
            f'Write metainfo=dict(classes={in_order})',
        )
