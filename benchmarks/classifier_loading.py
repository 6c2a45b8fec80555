"""The time that one worker needs to make the training batches of a classifier, beside timm's own loader."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config
from timm.data import FastCollateMixup, create_dataset, create_transform

from mmengine_plugin import config
from mmengine_plugin.engine.sampling import SeededDataset, seeded_collate
from timm_plugin.dataset import TimmDataset

from .measuring import measure

IMAGES, HEIGHT, WIDTH = 64, 375, 500  # a batch of JPEGs of the size that is most frequent in ImageNet


def measure_classifier_loading(rounds: int) -> Iterator[dict]:
    """Read, transform and mix a batch of drawn JPEGs by timm's parts alone, and as a run of this project does.

    Both do the same with the same images, in this process. What differs is that each sample and each batch has random
    numbers of its own here, so that a run resumes exactly.

    Args:
        rounds: How often a batch is made, after one round of warm-up.

    Yields:
        Rows of the report, timm's first.
    """
    cfg = Config.fromfile(config('imagenet_mambaout_tiny')).train_dataloader
    mixup = dict(cfg.collate_fn.mixup, num_classes=2)
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder))
        timms = create_dataset('', folder, 'train')
        timms.transform = create_transform(**cfg.dataset.transform, use_prefetcher=True)
        ours = SeededDataset(TimmDataset(folder, 'train', cfg.dataset.transform))
        iteration = count()  # as in a run: each round draws other augmentations, some of which take longer
        collate = partial(seeded_collate, collate=dict(type='collate_images', mixup=mixup))
        runs = {
            'timm': lambda: FastCollateMixup(**mixup)([timms[i] for i in range(IMAGES)]),
            'this project': lambda: collate(ours.__getitems__(keyed(next(iteration)))),
        }
        for candidate, result in measure(runs, rounds, 'input classification').items():
            result['images_per_second'] = IMAGES / float(np.median(result['seconds']))
            shape = f'{IMAGES} JPEGs of {WIDTH}x{HEIGHT}'
            yield dict(suite='input', what='classification', shape=shape, candidate=candidate, **result)


def keyed(iteration: int) -> list[tuple[int, tuple[int, ...]]]:
    """The indices of all images with their keys in an iteration."""
    return [(place, (0, 0, iteration, place)) for place in range(IMAGES)]


def draw(folder: Path) -> None:
    """Draw random pictures of two classes, with as much detail as photographs have."""
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        path = folder / 'train' / f'class_{number % 2}' / f'{number}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = np.zeros((HEIGHT, WIDTH, 3))
        for cells in (4, 16, 64):  # coarse noise is strong, and fine noise is weak
            noise = rng.normal(0, 200 / cells**0.5, (cells, cells, 3))
            picture += cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(path), np.clip(picture + 128, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 95])
