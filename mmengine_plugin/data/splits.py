"""Which images are for validation, where a data set does not say so."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from backbones.errors import UserError


def choose_validation(names: Collection[str], fraction: float, seed: int) -> set[str]:
    """Choose images for validation. The choice depends on nothing but the names and the seed.

    Args:
        names: Names of the images.
        fraction: Share of the images to choose, between 0 and 1; at least one is chosen.
        seed: Another seed makes another choice.

    Raises:
        UserError: If no image would be left for training.
    """
    count = max(1, round(fraction * len(names)))
    if count >= len(names):
        raise UserError(f'{len(names)} images cannot be split into training and validation: add images')
    ordered = sorted(names, key=lambda name: hashlib.sha256(f'{seed} {name}'.encode()).digest())
    return set(ordered[:count])
