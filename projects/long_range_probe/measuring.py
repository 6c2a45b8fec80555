"""What is measured of a trained model: its accuracy by the distance of the cue, and its receptive field."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, load_checkpoint
from torch import nn
from torch.utils.data import DataLoader

from benchmarks.receptive_fields import radius, reach, receptive_field, shares

STRIDE = 16  # pixels between the cells of the map that is scored
FIELD_IMAGES = 32  # the receptive field is averaged over them


def load(config: Path, checkpoint: Path, data: Path) -> tuple[nn.Module, DataLoader]:
    """Load a trained model, and the validation images."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).eval()
    load_checkpoint(model, str(checkpoint), map_location='cpu')
    cfg.test_dataloader.batch_size, cfg.test_dataloader.dataset.data_root = 16, str(data)
    return model, Runner.build_dataloader(cfg.test_dataloader)


@torch.no_grad()
def accuracy(model: nn.Module, loader: DataLoader, cues: dict[str, dict]) -> dict[str, dict[int, float]]:
    """Measure how often a target gets the higher score for its own label than for the other one.

    Args:
        model: The segmentor. The scores that count are those of the cell in which a target's centre lies.
        loader: Batches of strips.
        cues: The content of ``cues.json``.

    Returns:
        The share of right targets by the side on which the cue lies, ``'left'`` or ``'right'``, and by the distance
        between target and cue in pixels.
    """
    right: dict[str, dict[int, list[bool]]] = dict(left={}, right={})
    for batch in loader:
        batch = model.data_preprocessor(batch)
        scores = model(batch['inputs'], mode='tensor')  # (B, 3, H, W), not enlarged to the image
        for score, sample in zip(scores, batch['data_samples'], strict=True):
            truth = cues[Path(sample.img_path).stem]
            (x, y), label = truth['cue'], truth['label']
            for target in truth['targets']:
                cell = score[:, y // STRIDE, target // STRIDE]
                answers = right['left' if x < target else 'right'].setdefault(abs(x - target), [])
                answers.append(bool(cell[label] > cell[3 - label]))
    return {side: {d: float(np.mean(answers[d])) for d in sorted(answers)} for side, answers in right.items()}


def field_of(model: nn.Module, loader: DataLoader) -> np.ndarray:
    """The receptive field ``(H, W)`` of the map's central cell, the mean over the first ``FIELD_IMAGES`` images."""
    batches = (model.data_preprocessor(batch)['inputs'] for batch in loader)
    return receptive_field(model.backbone, islice(batches, FIELD_IMAGES // loader.batch_size), STRIDE)


def extent(field: np.ndarray) -> dict[str, int]:
    """Measure how far a receptive field ``(H, W)`` reaches in the central cell's row of cells.

    Returns:
        Distances from the left border of the cell, in pixels: ``left`` and ``right``, to the farthest pixels with any
        gradient; ``half`` and ``most``, within which 50 % and 95 % of the gradient lie.
    """
    top = field.shape[0] // STRIDE // 2 * STRIDE
    row = field[top : top + STRIDE].sum(0, keepdims=True)
    sides, within = reach(row, STRIDE), shares(row, STRIDE)
    return dict(left=sides['left'], right=sides['right'], half=radius(within, 0.5), most=radius(within, 0.95))
