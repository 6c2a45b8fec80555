"""Images with one label each: folders of classes, tars and Hugging Face data sets, as timm reads them."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Mapping

from mmengine.registry import DATASETS
from PIL import Image
from timm.data import create_dataset, create_transform, resolve_data_config
from timm.models import get_pretrained_cfg, list_pretrained
from torch.utils.data import Dataset

from backbones.errors import UserError, did_you_mean

FOLDERS = dict(train=('train', 'training'), val=('val', 'validation'), test=('test',))  # those that timm tries


@DATASETS.register_module()
class TimmDataset(Dataset):
    """A data set of timm whose samples can be read in any order, so that a run over them resumes exactly.

    Args:
        root: A folder with ``train/`` and ``val/``, each with one folder for each class; a ``.tar`` file with such
            folders; for a Hugging Face data set, the folder of its cache.
        split: ``'train'``, ``'val'`` or a split of a Hugging Face data set.
        transform: Arguments of timm's ``create_transform``. With ``pretrained_cfg``, the name of published weights such
            as ``'mambaout_tiny.in1k'``, they have those weights' test size, crop and interpolation as default.
        name: Empty for folders and tars; ``'hfds/<name>'`` for a Hugging Face data set.
        class_map: A file with the names of the classes, one in each line, in the order of their indices. By default the
            names of the folders are sorted. Folders that it does not list are left out.
        lazy_init: Whether the data are not looked for before :meth:`full_init`.

    Attributes:
        metainfo: ``classes``, the names of the classes in the order of their indices.

    Raises:
        UserError: If there are no such data, or if ``transform`` cannot be used.
    """

    def __init__(
        self,
        root: str | None,
        split: str,
        transform: Mapping,
        name: str = '',
        class_map: str = '',
        lazy_init: bool = False,
    ) -> None:
        if name and not name.lower().startswith('hfds/'):
            raise UserError(
                f'dataset.name={name!r} is not a data set whose samples have numbers, over which a run can resume: use '
                'a folder, a .tar or hfds/<name>'
            )
        self.root, self.split, self.name, self.class_map = root, split, name, class_map
        self.reader, self.transform = None, build_transform(transform)
        if not lazy_init:
            self.full_init()

    def full_init(self) -> None:
        """Look for the data, unless that is done: mmengine's wrappers, such as RepeatDataset, call this again."""
        if self.reader is not None:
            return
        if not self.name:
            _check_folder(self.root, self.split)
        # the readers of a tar must not share one open file, whose position moves with each of them
        options = dict(cache_tarfiles=False) if str(self.root).endswith('.tar') and not self.name else {}
        try:
            reader = create_dataset(self.name, self.root, self.split, class_map=self.class_map, **options).reader
        except ImportError as error:
            raise UserError(f'{self.name} needs another package [{error}]: pip install datasets') from error
        except (AssertionError, OSError, RuntimeError, ValueError, tarfile.TarError) as error:
            raise UserError(f'{self.name or self.root} ({self.split}) cannot be read: {error}') from error
        self.reader = reader
        indices = getattr(reader, 'class_name_to_idx', None) or reader.class_to_idx  # of a tar, or of others
        self.metainfo = dict(classes=tuple(sorted(indices, key=indices.get)))

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> dict:
        """Load an image.

        Returns:
            ``inputs``, the image ``(3, H, W)`` uint8 after the transform; ``label``, the index of its class;
            ``img_path``, its name.

        Raises:
            UserError: If the image cannot be read or has no label; the message names it.
        """
        path = self.path(index)
        try:
            file, label = self.reader[index]
            with file:
                image = Image.open(file).convert('RGB')
        # timm would take the next image in its place, in a validation, too. PIL calls a broken PNG a SyntaxError
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise UserError(f'{path} cannot be read [{error}]: replace or remove it') from error
        if label is None or label < 0:
            raise UserError(f'{path} has no label: name another split')
        return dict(inputs=self.transform(image), label=int(label), img_path=path)

    def get_data_info(self, index: int) -> dict:
        """The name of an image and the index of its class, as ``img_path`` and ``gt_label``, without decoding it."""
        if hasattr(self.reader, 'targets'):  # of a tar
            label = self.reader.targets[index]
        elif hasattr(self.reader, 'samples'):  # of a folder
            label = self.reader.samples[index][1]
        else:
            label = self.reader[index][1]
        return dict(img_path=self.path(index), gt_label=int(label))

    def path(self, index: int) -> str:
        """The path of an image, its name in a tar or a Hugging Face data set, or its number if it has no name."""
        return self.reader.filename(index, absolute=True) or f'{self.name} ({self.split}), image {index}'


def build_transform(settings: Mapping) -> Callable[[Image.Image], object]:
    """Build the part of timm's transform that runs before a batch is formed.

    Args:
        settings: Arguments of timm's ``create_transform``, and ``pretrained_cfg``; see :class:`TimmDataset`.

    Returns:
        A function from an RGB image to ``(3, H, W)`` uint8.

    Raises:
        UserError: If there is no such argument or no such published model.
    """
    settings = dict(settings)
    if name := settings.pop('pretrained_cfg', None):
        settings = published_settings(name) | settings
    try:
        return create_transform(**settings, use_prefetcher=True)
    except (AssertionError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"dataset.transform={settings} cannot be used by timm's create_transform: {error}") from error


def published_settings(name: str) -> dict:
    """The arguments of ``create_transform`` with which timm validates published weights.

    Args:
        name: Name of the weights in timm: ``'mambaout_base_plus_rw.sw_e150_r384_in12k_ft_in1k'``.

    Raises:
        UserError: If timm does not know them; the message names the nearest ones.
    """
    pretrained = get_pretrained_cfg(name)
    if pretrained is None:
        raise UserError(f'dataset.transform.pretrained_cfg={name!r}{did_you_mean(name, list_pretrained())}')
    resolved = resolve_data_config(pretrained_cfg=pretrained.to_dict(), use_test_size=True)
    return {key: resolved[key] for key in ('input_size', 'interpolation', 'crop_pct', 'crop_mode')}


def _check_folder(root: str | None, split: str) -> None:
    """Check that a folder has the split, because timm would take all of the folder instead."""
    if not root or not os.path.exists(root):
        raise UserError(
            f'{root} does not exist: put train/<class>/ and val/<class>/ there, or set dataset.root in all data loaders'
        )
    names = FOLDERS.get(split, (split,))
    if os.path.isdir(root) and not any(os.path.isdir(os.path.join(root, name)) for name in names):
        raise UserError(f'{root} has no folder {names[0]}/ with one folder for each class')
