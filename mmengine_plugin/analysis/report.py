"""What an analysis finds, and the parts that detection and segmentation share."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger

from backbones.errors import UserError


@dataclass
class Report:
    """The findings of an analysis.

    Attributes:
        scores: The scores of the config's evaluator, as ``tools/test.py`` reports them.
        content: Everything that was found, for a JSON file.
        tables: Short tables to print.
        files: Files that were written.
    """

    scores: dict[str, float]
    content: dict
    tables: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what pycocotools and mmengine's logger print off the screen, except errors."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('ERROR')
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def score(cfg: Config, samples: Sequence[dict], metainfo: dict) -> dict[str, float]:
    """Score predictions with the evaluator of a config, as ``tools/test.py`` does.

    Args:
        cfg: The config.
        samples: Predictions, one for each image.
        metainfo: ``metainfo`` of the test data.

    Returns:
        The scores by name.

    Raises:
        UserError: If the evaluator needs what the predictions do not hold.
    """
    try:
        with quiet():
            evaluator = Evaluator(cfg.test_evaluator)
            evaluator.dataset_meta = metainfo
            scores = evaluator.offline_evaluate(samples)
    except KeyError as error:
        if 'is not in results' not in str(error) and 'gt_sem_seg' not in str(error):
            raise
        if 'gt_sem_seg' in str(error):
            raise UserError(
                f'the results hold no ground truth: add dict(type="LoadAnnotations") to the test pipeline of '
                f'{cfg.filename}, and run tools/test.py again'
            ) from error
        kind = str(error.args[0]).split()[0]
        raise UserError(
            f'test_evaluator of {cfg.filename} scores {kind!r}, and the results hold no masks: add --cfg-options '
            'test_evaluator.metric=bbox'
        ) from error
    return {name: float(value) for name, value in scores.items()}


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lay out a table: the first column to the left, the others to the right."""
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for first, *others in lines:
        cells = [first.ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        text.append('  '.join(cells).rstrip())
    return '\n'.join(text)


def percent(value: float | None) -> str:
    """A share as a number from 0.0 to 100.0; a dash if there is none."""
    return '–' if value is None or np.isnan(value) else f'{100 * value:.1f}'


def listed(names: Sequence[str], count: int = 10) -> str:
    """The first names of a list, and the number of the others."""
    if len(names) <= count:
        return ', '.join(names)
    return f'{", ".join(names[:count])} and {len(names) - count} more'


def number_or_none(value: float) -> float | None:
    """A number for a JSON file, which has no nan."""
    return None if np.isnan(value) else float(value)


def top_confusions(matrix: np.ndarray, names: Sequence[str], count: int = 10) -> list[dict]:
    """The largest entries of a confusion matrix off its diagonal.

    Args:
        matrix: (C, C), numbers of objects or pixels by true and predicted class.
        names: C names.
        count: Largest number of entries.

    Returns:
        Dicts with ``truth``, ``prediction``, ``count`` and ``share``, the share of the true class.
    """
    others = matrix * ~np.eye(len(names), dtype=bool)
    pairs = []
    for place in np.argsort(-others, axis=None, kind='stable')[:count]:
        row, column = np.unravel_index(place, matrix.shape)
        number = int(others[row, column])
        if number:
            share = number / int(matrix[row].sum())
            pairs.append(dict(truth=names[row], prediction=names[column], count=number, share=share))
    return pairs
