"""Images so long and narrow that a resizing would leave nothing of them."""

from __future__ import annotations

from collections.abc import Sequence

from mmcv.image import rescale_size
from mmcv.transforms import BaseTransform, Resize

from .image_checks import Problem


def narrow_problem(path: str, size: tuple[int, int], transforms: Sequence[BaseTransform]) -> Problem | None:
    """Find an image of which a transform would make one that is 0 pixels wide or high.

    Args:
        path: The file.
        size: (height, width) of the image.
        transforms: The pipeline.

    Returns:
        The problem; ``None`` if each ``Resize`` with a fixed scale leaves at least a pixel.
    """
    height, width = size
    for transform in transforms:
        if not isinstance(transform, Resize) or not transform.keep_ratio or not transform.scale:
            continue
        if 0 in rescale_size((width, height), tuple(transform.scale)):
            return Problem(
                path,
                'image that is too narrow to resize',
                f'it has {width}x{height} pixels, and Resize(scale={tuple(transform.scale)}, keep_ratio=True) would '
                'leave 0 pixels of its shorter side',
                'cut it into pieces, or leave it out',
            )
    return None
