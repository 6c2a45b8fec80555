"""The time that one worker needs to load training images, and the share of each transform."""

from __future__ import annotations

import pickle
import statistics
import time
from collections.abc import Iterator

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from tqdm import tqdm

from mmengine_plugin import config

from .measuring import compare

CONFIGS = dict(detection='mask_rcnn_mambaout_tiny', segmentation='upernet_mambaout_tiny')
IMAGES = 80  # the first ones of a data set


def measure_data_loading(rounds: int) -> Iterator[dict]:
    """Load and transform the first training images of COCO and ADE20K in ``data/``.

    Args:
        rounds: How often the images are loaded, after one round of warm-up.

    Yields:
        Rows of the report. The first candidate, ``whole``, is the sum of all transforms, the others are the transforms.
    """
    for task, name in CONFIGS.items():
        cfg = Config.fromfile(config(name))
        init_default_scope(cfg.default_scope)
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        images = min(IMAGES, len(dataset))
        seconds: dict[str, list[float]] = {}
        for number in tqdm(range(-1, rounds), desc=f'input {task}', leave=False):
            times = time_transforms(dataset, images)
            if number >= 0:
                for transform, total in times.items():
                    seconds.setdefault(transform, []).append(total)
        for candidate, result in compare(seconds).items():
            if candidate == 'whole':
                result['images_per_second'] = images / statistics.median(result['seconds'])
            yield dict(suite='input', what=task, shape=f'{images} images', candidate=candidate, **result)


def time_transforms(dataset: object, images: int) -> dict[str, float]:
    """Seconds that each transform of the data set needs for its first images; ``whole`` is their sum."""
    seconds = dict(whole=0.0)
    for index in range(images):
        sample = dataset.get_data_info(index)
        for transform in (*dataset.pipeline.transforms, handed_over):
            start = time.perf_counter()
            sample = transform(sample)
            name = getattr(transform, '__name__', type(transform).__name__)
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start
    seconds['whole'] = sum(seconds.values())
    return seconds


def handed_over(sample: dict) -> object:
    """Pickle and unpickle a sample without its image, as a worker hands it to the training process.

    Tensors such as the image are shared and not copied, but the masks of a detector are copied byte by byte.
    """
    return pickle.loads(pickle.dumps(sample['data_samples']))
