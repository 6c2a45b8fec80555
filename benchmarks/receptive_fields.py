"""Receptive fields: how far, and how much, the pixels around a cell of a feature map change it.

A field is the mean absolute gradient ``(H, W)`` of a map's central cell with respect to the image (Luo et al.,
arXiv 1701.04128). All distances count from the upper left corner of that cell, in pixels: a stack of convolutions with
odd kernels and with strides of 2 reaches equally far from it to all sides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import mmcv
import numpy as np
import torch
from torch import Tensor, nn

from backbones.errors import UserError


def receptive_field(backbone: nn.Module, batches: Iterable[Tensor], stride: int) -> np.ndarray:
    """Measure the receptive field of a feature map.

    The channels of the cell are added up with random weights, because their plain sum behind a LayerNorm is constant.

    Args:
        backbone: Images to feature maps, in evaluation mode. Its parameters no longer get gradients afterwards.
        batches: Images ``(B, C, H, W)`` in the dtype of the backbone; the field is their mean.
        stride: Pixels between the cells of the map; of several such maps, the last one counts.

    Returns:
        The field ``(H, W)``.

    Raises:
        UserError: If no map has this stride, or if the gradient is zero everywhere or not finite.
    """
    backbone.requires_grad_(False)
    generator, total, count = torch.Generator().manual_seed(0), 0, 0
    for images in batches:
        images = images.detach().requires_grad_()
        features = _map_at(backbone(images), images.shape[-2], stride)
        cells = features[..., features.shape[2] // 2, features.shape[3] // 2]
        (cells * torch.randn(cells.shape, generator=generator).to(cells)).sum().backward()
        total, count = total + images.grad.abs().sum((0, 1)), count + len(images)
    field = (total / count).cpu().numpy()
    if not 0 < field.sum() < np.inf:
        raise UserError('the gradient of the central cell is zero everywhere or not finite')
    return field


def reach(field: np.ndarray, stride: int) -> dict[str, int]:
    """Measure how far a gradient reaches: ``left`` and ``right`` in the cell's row, ``up`` and ``down`` in its column.

    The cell may see farther in other rows and columns. For example, a causal scan by rows sees the whole rows above the
    cell, but nothing to its right.
    """
    found = {}
    for sides, lines in ((('left', 'right'), field), (('up', 'down'), field.T)):
        first, centre = _corner(lines, stride)
        seen = np.flatnonzero(lines[first : first + stride].any(0))
        ends = centre - int(seen.min(initial=centre)), int(seen.max(initial=centre)) - centre
        found |= dict(zip(sides, ends, strict=True))
    return found


def reaches_all_borders(field: np.ndarray, stride: int) -> bool:
    """Whether a gradient reaches the borders of the image, to all four sides."""
    (top, left), (height, width) = _corner(field, stride), field.shape
    return reach(field, stride) == dict(left=left, right=width - 1 - left, up=top, down=height - 1 - top)


def shares(field: np.ndarray, stride: int) -> np.ndarray:
    """The share of the gradient that lies within 0, 1, 2, ... pixels from the corner of the cell, rounded down."""
    top, left = _corner(field, stride)
    rows, columns = np.indices(field.shape)
    distances = np.hypot(rows - top, columns - left).astype(int)
    return np.cumsum(np.bincount(distances.ravel(), weights=field.ravel())) / field.sum(dtype=float)


def radius(shares: np.ndarray, part: float) -> int:
    """The number of pixels within which a part of the gradient lies, by the result of :func:`shares`."""
    return int(np.searchsorted(shares, part))


def describe(field: np.ndarray, stride: int) -> dict:
    """The numbers of pixels within which 50 % (``half``) and 95 % (``most``) of the gradient lie, and a curve.

    The curve, ``shares``, is the share of the gradient within 0, 16, 32, ... pixels.
    """
    within = shares(field, stride)
    curve = [round(float(share), 4) for share in within[::16]]
    return dict(half=radius(within, 0.5), most=radius(within, 0.95), shares=curve)


def square_images(paths: Sequence[str], size: int) -> Iterator[np.ndarray]:
    """Read images ``(size, size, 3)``: the centres of files, scaled so that they fill the square."""
    for path in paths:
        pixels = mmcv.imread(path)
        scale = size / min(pixels.shape[:2])
        height, width = (max(size, round(scale * side)) for side in pixels.shape[:2])
        top, left = (height - size) // 2, (width - size) // 2
        yield mmcv.imresize(pixels, (width, height))[top : top + size, left : left + size]


def _map_at(maps: Sequence[Tensor], height: int, stride: int) -> Tensor:
    """The last of the maps that has the stride."""
    found = [features for features in maps if features.shape[-2] == math.ceil(height / stride)]
    if not found:
        strides = ', '.join(str(math.ceil(height / features.shape[-2])) for features in maps)
        raise UserError(f'no feature map has stride {stride}: the strides are {strides}')
    return found[-1]


def _corner(field: np.ndarray, stride: int) -> tuple[int, int]:
    """Row and column of the central cell's first pixel."""
    top, left = (math.ceil(size / stride) // 2 * stride for size in field.shape)
    return top, left
