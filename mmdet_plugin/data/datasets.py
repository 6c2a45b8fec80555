"""COCO-format data, checked before training starts."""

import logging
from collections.abc import Mapping
from pathlib import Path

from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.transforms import LoadAnnotations
from mmdet.registry import DATASETS
from mmengine.logging import print_log

from backbones.errors import UserError
from mmengine_plugin.data.checked_samples import CheckedSamples
from mmengine_plugin.data.image_checks import transform_of

from .annotation_file import IndexedAnnotations, class_name, refuse
from .annotation_reader import read_annotations, without_root
from .class_checks import add_empty_categories, crowd_problems, has_single_objects
from .image_files import locate_images, read_sizes
from .mask_checks import UNUSABLE, mask_problems
from .usable_objects import left_out_images, unusable_objects

UNUSABLE_SHARE = 0.01  # of the objects may have masks that cannot be used, which training ignores


@DATASETS.register_module()
class CheckedCocoDataset(CheckedSamples, CocoDataset):
    """mmdet's CocoDataset for files as annotation tools export them.

    Classes are mapped by their names; the original numbers them in the order of the annotation file, and leaves out
    those that the file does not have. What an annotation file lacks is filled in where it follows from the rest, and
    all else that would end in a wrong training is refused before the first step.

    Args:
        *args: Arguments of CocoDataset.
        skip_bad_samples: If true, a training sample that cannot be used is left out, and another one takes its place.
            If false, and always in validation and tests, the first such sample stops the run.
        may_lack_classes: Whether the annotation file may lack classes, as a part of a ConcatDataset may. The programs
            in ``tools/`` set it for such parts.
        **kwargs: Arguments of CocoDataset.
    """

    def __init__(self, *args, may_lack_classes: bool = False, **kwargs) -> None:
        self.may_lack_classes = may_lack_classes
        self.lacking: list[str] = []
        metainfo, prefix = kwargs.get('metainfo'), kwargs.get('data_prefix') or {}
        if metainfo and isinstance(metainfo.get('classes'), list | tuple):
            kwargs['metainfo'] = dict(metainfo, classes=tuple(map(class_name, metainfo['classes'])))
        if 'img_path' in prefix:
            raise UserError(
                f'{kwargs.get("ann_file")}: data_prefix has img_path, the key of mmsegmentation: write '
                f'data_prefix=dict(img={prefix["img_path"]!r})'
            )
        super().__init__(*args, **kwargs)

    def COCOAPI(self, local_path: str) -> IndexedAnnotations:
        """Read the annotation file. mmdet calls its index of annotations by this name.

        Args:
            local_path: The annotation file, or a copy of it on this machine.

        Returns:
            The index of the completed annotations.

        Raises:
            UserError: If the file cannot be used, an image is missing, or classes, masks or crowds do not fit.
        """
        file = read_annotations(local_path, name=self.ann_file)
        refuse(file.problems)
        for doubt in file.doubts:
            print_log(str(doubt), 'current', logging.WARNING)
        if self.may_lack_classes:
            self.lacking = add_empty_categories(file.content, self.metainfo['classes'])
        folder = self.data_prefix['img']
        if self.backend_args is None:  # otherwise the files may be on another machine
            missing = locate_images(file, folder)
            if missing:
                raise UserError(
                    f'{folder} lacks {len(missing)} of the {len(file.content["images"])} images of {self.ann_file}, '
                    f'the first is {missing[0].file} ({missing[0].detail}); {missing[0].fix}'
                )
        loader = transform_of(self, LoadImageFromFile)
        refuse(read_sizes(file, folder, loader, self.backend_args))
        index, classes = IndexedAnnotations(file), self.metainfo['classes']
        index.get_cat_ids(cat_names=classes)  # refuses unknown classes before their objects are looked at
        crowds = list(crowd_problems(self.ann_file, file.content, classes))
        if not has_single_objects(file.content, classes):
            refuse(crowds)
        elif not self.test_mode:
            for problem in crowds:
                print_log(str(problem), 'current', logging.WARNING)
        if transform_of(self, LoadAnnotations).with_mask:
            lacking = mask_problems(self.ann_file, file.content, classes)
            refuse([problem for problem in lacking if problem.kind != UNUSABLE])
            if self.test_mode or len(lacking) > UNUSABLE_SHARE * len(file.content['annotations']):
                refuse(lacking)  # the scores need all masks
            elif lacking:
                print_log(
                    f'{self.ann_file}: training ignores {len(lacking)} objects with unusable masks, the first is '
                    f'{lacking[0].detail}',
                    'current',
                    logging.WARNING,
                )
        problems, note = unusable_objects(self.ann_file, file.content, classes)
        refuse(problems)
        if note:
            print_log(note, 'current', logging.WARNING)
        if not self.test_mode:
            for line in left_out_images(self.ann_file, file.content, classes, self.filter_cfg):
                print_log(line, 'current')
        if file.changes:
            print_log(f'{self.ann_file}: {file.described_changes()}', 'current')
        return index

    def load_data_list(self) -> list[dict]:
        """Load the annotations.

        Returns:
            One dict for each image, as mmdet makes it.

        Raises:
            UserError: If the annotation file, the image folder or an image is missing, or if the file does not fit the
                config.
        """
        if self.backend_args is None:
            for what, path in (('annotation file', self.ann_file), ('image folder', self.data_prefix['img'])):
                if found := without_root(path, self.data_root):
                    raise UserError(f'{what} {path} is not there: {found}')
                if not Path(path).exists():
                    raise UserError(
                        f'{what} {path} is not there (seen from {Path.cwd()}): put or link the data to '
                        f'{self.data_root}, or set data_root in the data loaders of the config; docs/data.md shows the '
                        'layout'
                    )
        return super().load_data_list()

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
