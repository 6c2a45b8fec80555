"""A folder of coloured masks, as annotation tools export it, converted to label maps and a config to train with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backbones.errors import UserError
from mmengine_plugin.atomic_files import atomic_folder
from mmengine_plugin.config_text import literal
from mmengine_plugin.data.splits import choose_validation

from .color_masks import RGB, read_labelmap
from .convert_masks import mask_files, write_label_maps

NO_IMAGES = 'IMAGES'  # stands in the config for a folder that was not found
CONFIG = """# The paths begin at the folder in which the programs are started: {start}
_base_ = __import__('mmseg_plugin').config('upernet_mambaout_tiny')
data = dict(
    type='FolderDataset',
    data_root='',
    data_prefix=dict(img_path={images}, seg_map_path={masks}),
    metainfo=dict(classes={classes}{palette}),
)
model = dict(decode_head=dict(num_classes={count}), auxiliary_head=dict(num_classes={count}))
train_dataloader = dict(dataset=dict(**data, ann_file={train}))
val_dataloader = dict(dataset=dict(**data, ann_file={val}))
test_dataloader = val_dataloader
"""


@dataclass
class MaskExport:
    """Where the parts of an export are.

    Attributes:
        masks: Folder of the masks.
        images: Folder of the images; ``None`` if no folder has an image for each mask.
        labelmap: CVAT's ``labelmap.txt``; ``None`` if there is none.
        lists: The file with the names of each split's images, as in Pascal VOC; empty if there is not one for both.
    """

    masks: Path
    images: Path | None
    labelmap: Path | None
    lists: dict[str, Path]


def find_export(src: Path) -> MaskExport:
    """Find the parts of an export.

    Args:
        src: The folder of the masks, or a folder in the layout of Pascal VOC, which CVAT also writes: masks in
            ``SegmentationClass``, images in ``JPEGImages``, lists in ``ImageSets/Segmentation``.
    """
    masks = src / 'SegmentationClass' if (src / 'SegmentationClass').is_dir() else src
    root = masks.parent
    labelmap = root / 'labelmap.txt'
    lists = {split: root / f'ImageSets/Segmentation/{split}.txt' for split in ('train', 'val')}
    return MaskExport(
        masks,
        _images_of(masks),
        labelmap if labelmap.is_file() else None,
        lists if all(path.is_file() for path in lists.values()) else {},
    )


def _images_of(masks: Path) -> Path | None:
    """The folder beside the masks that has an image for each of them."""
    names = {path.relative_to(masks).with_suffix('') for path in mask_files(masks)}
    for folder in sorted(masks.parent.iterdir()):
        if folder.is_dir() and folder != masks and not folder.name.startswith('Segmentation'):
            if names <= {path.relative_to(folder).with_suffix('') for path in folder.rglob('*')}:
                return folder
    return None


def convert_export(
    src: Path, out: Path, colors: Mapping[str, RGB], val_fraction: float, seed: int
) -> tuple[str, list[str]]:
    """Write label maps, lists of images for training and validation, and a config to a new folder, whole or not at all.

    Args:
        src: What :func:`find_export` takes.
        out: The folder to write; it must not exist.
        colors: Colour of each class, in the order of their indices. If it is empty, ``labelmap.txt`` names them.
        val_fraction: Share of the images for validation, if the export has no lists.
        seed: Another seed chooses other images for validation.

    Returns:
        The text of the config, and what the user should know about the conversion, a line each.

    Raises:
        UserError: If a mask cannot be read or has another colour, or if the folder cannot be written.
    """
    if out.resolve().is_relative_to(src.resolve()):
        raise UserError(f'{out} is inside {src}: name a folder outside the one that is converted')
    export = find_export(src)
    if not colors and export.labelmap:
        colors = read_labelmap(export.labelmap)
    with atomic_folder(out) as temporary:
        names, classes = write_label_maps(export.masks, temporary, colors)
        notes = [f'{len(names)} masks with the classes {", ".join(classes)}']
        for split, listed in _splits(export, names, val_fraction, seed, notes).items():
            (temporary / f'{split}.txt').write_text(''.join(f'{name}\n' for name in listed), encoding='utf-8')
        if not export.images:
            notes.append(f'no folder beside {export.masks} has the images: write theirs for {NO_IMAGES} in the config')
        text = CONFIG.format(
            start=literal(str(Path.cwd())),
            images=literal(export.images.as_posix() if export.images else NO_IMAGES),
            masks=literal(out.as_posix()),
            classes=literal(tuple(classes)),
            palette=f', palette={[list(color) for color in colors.values()]}' if colors else '',
            count=len(classes),
            train=literal(f'{out.as_posix()}/train.txt'),
            val=literal(f'{out.as_posix()}/val.txt'),
        )
        (temporary / f'{out.resolve().name}.py').write_text(text, encoding='utf-8')
    return text, notes


def _splits(
    export: MaskExport, names: Sequence[str], fraction: float, seed: int, notes: list[str]
) -> dict[str, Sequence[str]]:
    """The names for training and for validation: those of the export's lists, or a choice."""
    if export.lists:
        texts = {split: path.read_text(encoding='utf-8-sig') for split, path in export.lists.items()}
        return {split: [line.strip() for line in text.splitlines() if line.strip()] for split, text in texts.items()}
    chosen = choose_validation(names, fraction, seed)
    notes.append(f'{len(chosen)} of {len(names)} images became the validation set (--val-fraction, --seed)')
    return dict(train=[name for name in names if name not in chosen], val=sorted(chosen))
