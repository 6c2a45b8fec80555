"""Parts of a run with small models, and small images that a test draws."""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS, METRICS, MODELS, init_default_scope
from PIL import Image

from mmengine_plugin.checks.run_part import RunPart
from tests.mmengine_plugin.engine.small_recipes import recipe

LOAD, PACK = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')], dict(type='PackSegInputs')
CLASSES = ('ground', 'thing')


def draw_masks(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    """Draw images of these heights and widths with masks of two classes."""
    rng = np.random.default_rng(0)
    for part in ('i', 'm'):
        (folder / part).mkdir(parents=True)
    for number, size in enumerate(sizes):
        Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(folder / f'i/{number}.png')
        Image.fromarray(rng.integers(0, 2, size, np.uint8)).save(folder / f'm/{number}.png')
    return folder


@contextmanager
def logged_warnings() -> Iterator[list[str]]:
    """Collect the warnings that are logged meanwhile."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)


def part_with(
    task: str,
    options: dict | None = None,
    split: str = 'train',
    evaluator: dict | None = None,
    folder: Path | None = None,
    pipeline: list | None = None,
) -> RunPart:
    """The training, the validation or the test of a small recipe.

    Args:
        task: ``'detection'`` or ``'segmentation'``.
        options: Options of the config.
        split: ``'train'``, ``'val'`` or ``'test'``.
        evaluator: The metric of the split, instead of the recipe's.
        folder: Folder of :func:`draw_masks`; without it, the part has no data set.
        pipeline: Steps of the data set between loading and packing.
    """
    cfg = copy.deepcopy(recipe(task))
    cfg.merge_from_dict(copy.deepcopy(options or {}))
    cfg[f'{split}_evaluator'] = evaluator
    init_default_scope(cfg.default_scope)
    dataset = None
    if folder:
        data = dict(type='FolderDataset', data_root=str(folder), data_prefix=dict(img_path='i', seg_map_path='m'))
        steps = [*LOAD, *(pipeline or []), PACK]
        cfg[f'{split}_dataloader'].dataset.pipeline = steps
        dataset = DATASETS.build(data | dict(metainfo=dict(classes=CLASSES), pipeline=steps))
    metrics = [METRICS.build(evaluator)] if evaluator else []
    return RunPart(cfg, MODELS.build(cfg.model), split, dataset=dataset, metrics=metrics)
