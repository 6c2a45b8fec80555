"""ADE20K, checked before training starts."""

from collections.abc import Sequence
from pathlib import Path

from mmengine.fileio import list_dir_or_file
from mmseg.datasets import ADE20KDataset
from mmseg.registry import DATASETS

from backbones.errors import UserError, did_you_mean


@DATASETS.register_module()
class CheckedADE20KDataset(ADE20KDataset):
    """mmseg's ADE20KDataset that says what is wrong with the folders before the first epoch meets it."""

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> dict | None:
        """ADE20K's labels to those of ``new_classes``; :class:`UserError` for a name that ADE20K does not have."""
        known = cls.METAINFO['classes']
        unknown = [f'{name!r}{did_you_mean(name, known)}' for name in new_classes or () if name not in known]
        if unknown:
            raise UserError(f'metainfo: ADE20K has no class {", ".join(unknown[:4])}')
        return super().get_label_map(new_classes)

    def load_data_list(self) -> list[dict]:
        """List the images and their label maps.

        Returns:
            One dict for each image, as mmseg's.

        Raises:
            UserError: If a folder is not there, holds no image, or lacks the label map of an image.
        """
        if self.backend_args is not None:  # not on this machine
            return super().load_data_list()
        folders = {what: self.data_prefix.get(what) for what in ('img_path', 'seg_map_path')}
        for what, folder in folders.items():
            if folder and not Path(folder).is_dir():
                raise UserError(
                    f'{what} {folder} is not there (seen from {Path.cwd()}): put or link the data to {self.data_root}, '
                    'or set data_root in the data loaders of the config; README.md shows the layout'
                )
        data_list = super().load_data_list()
        if not data_list:
            raise UserError(f'{folders["img_path"]} holds no image that ends in {self.img_suffix!r}')
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
