"""ADE20K, checked before training starts."""

from pathlib import Path

from mmengine.fileio import isdir, list_dir_or_file
from mmseg.datasets import ADE20KDataset
from mmseg.registry import DATASETS

from backbones.errors import UserError


@DATASETS.register_module()
class CheckedADE20KDataset(ADE20KDataset):
    """mmseg's ADE20KDataset that says what is wrong with the folders before the first epoch meets it."""

    def load_data_list(self) -> list[dict]:
        """List the images and their label maps.

        Returns:
            One dict for each image, as mmseg's.

        Raises:
            UserError: If a folder is not there, holds no image, or lacks the label map of an image.
        """
        folders = {what: self.data_prefix.get(what) for what in ('img_path', 'seg_map_path')}
        for what, folder in folders.items():
            if folder and not isdir(folder, backend_args=self.backend_args):
                raise UserError(
                    f'{what} {folder} is not there (seen from {Path.cwd()}): put or link the data to {self.data_root}, '
                    'or set data_root in the data loaders of the config; README.md shows the layout'
                )
        data_list = super().load_data_list()
        if not data_list:
            raise UserError(f'{folders["img_path"]} holds no image that ends in {self.img_suffix!r}')
        if folders['seg_map_path']:
            there = set(list_dir_or_file(folders['seg_map_path'], recursive=True, backend_args=self.backend_args))
            named = [str(Path(d['seg_map_path']).relative_to(folders['seg_map_path'])) for d in data_list]
            lacking = [name for name in named if name not in there]
            if lacking:
                raise UserError(
                    f'{folders["seg_map_path"]} lacks the label maps of {len(lacking)} of {len(data_list)} images, '
                    f'the first is {lacking[0]}'
                )
        return data_list
