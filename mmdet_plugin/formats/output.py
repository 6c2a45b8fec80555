"""Writing a converted data set: annotation files, images that were inside label files, and a config to train with."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

from backbones.errors import UserError
from mmengine_plugin.atomic_files import atomic_folder
from mmengine_plugin.config_text import literal

from .dataset import Dataset, finish, to_coco

CONFIG = """# The paths begin at the folder in which the programs are started: {start}
_base_ = __import__('mmdet_plugin').config('{base}')
data = dict(data_root={root}, data_prefix=dict(img={images}), metainfo=dict(classes={classes}))
model = dict(roi_head=dict({heads}))
train_dataloader = dict(dataset=dict(**data, ann_file='annotations/train.json'))
val_dataloader = dict(dataset=dict(**data, ann_file='annotations/val.json'))
test_dataloader = {test_dataloader}
val_evaluator = dict(ann_file={val})
test_evaluator = {test_evaluator}
"""


def write(
    dataset: Dataset, src: Path, out: Path, mixed: str | None, val_fraction: float, seed: int
) -> tuple[Dataset, str, Path]:
    """Write a data set to a new folder, whole or not at all. The images stay where they are.

    Args:
        dataset: What a reader returned.
        src: The folder that was read.
        out: The folder to write; it must not exist.
        mixed: ``'boxes'`` or ``'rectangles'``: what to do if only some objects have masks.
        val_fraction: Share of the images for validation, if the source has no validation split.
        seed: Another seed makes another split.

    Returns:
        The data set as written, the text of the config, and its path in ``out``.

    Raises:
        UserError: If the data set cannot be used, or the folder cannot be written.
    """
    target = out.resolve()
    if target.is_relative_to(src.resolve()):
        raise UserError(f'{out} is inside {src}: name a folder outside the one that is converted')
    images = [replace(image, path=_place(image.path, image.content, target)) for image in dataset.images]
    root = _root([image.path for image in images], Path(os.path.abspath(src)))
    dataset = finish(replace(dataset, images=images), root, mixed, val_fraction, seed)
    contents = to_coco(dataset, root)
    # a path with .. leads through what links stand for, so both ends are given without links
    text = _config(dataset, out, Path(os.path.relpath(root.resolve(), target)).as_posix())
    with atomic_folder(out) as temporary:
        (temporary / 'annotations').mkdir()
        for split, content in contents.items():
            (temporary / 'annotations' / f'{split}.json').write_text(json.dumps(content))
        for image in dataset.images:
            if image.content is not None:
                path = temporary / image.path.relative_to(target)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(image.content)
        config = Path(f'{target.name}.py')
        (temporary / config).write_text(text, encoding='utf-8')
    return dataset, text, out / config


def _place(path: Path, content: bytes | None, target: Path) -> Path:
    """Where an image is, or where it is written if it was inside its label file."""
    return Path(os.path.abspath(path)) if content is None else target / 'images' / path


def _root(paths: list[Path], src: Path) -> Path:
    """The source folder if all images are in it, or else the nearest folder above all images."""
    if all(path.is_relative_to(src) for path in paths):
        return src
    try:
        return Path(os.path.commonpath([path.parent for path in paths]))
    except ValueError as error:
        raise UserError(f'the images are on several drives, such as those of {paths[0]}: put them on one') from error


def _config(dataset: Dataset, out: Path, images: str) -> str:
    """The config that trains on the written data set."""
    count, root = len(dataset.categories), out.as_posix()
    heads = f'bbox_head=dict(num_classes={count})'
    if dataset.has_masks:
        heads += f', mask_head=dict(num_classes={count})'
    has_test = any(image.split == 'test' for image in dataset.images)
    return CONFIG.format(
        start=literal(str(Path.cwd())),
        base='mask_rcnn_mambaout_tiny' if dataset.has_masks else 'faster_rcnn_mambaout_tiny',
        root=literal(root),
        images=literal(images),
        classes=literal(tuple(dataset.categories)),
        heads=heads,
        test_dataloader=(
            "dict(dataset=dict(**data, ann_file='annotations/test.json'))" if has_test else 'val_dataloader'
        ),
        val=literal(f'{root}/annotations/val.json'),
        test_evaluator=f'dict(ann_file={literal(f"{root}/annotations/test.json")})' if has_test else 'val_evaluator',
    )
