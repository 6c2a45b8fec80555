"""The size of images as training loads them, and masks that are inside label files."""

from __future__ import annotations

import base64
import io
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from backbones.errors import UserError

ORIENTATION = 0x0112  # EXIF tag; values from 2 on mean that the picture is shown turned or mirrored


def image_size(path: Path, labelled: tuple[int, int] | None = None) -> tuple[int, int]:
    """The size of an image as training loads it, after OpenCV has turned it as EXIF says.

    Args:
        path: The image.
        labelled: (height, width) that the label file names, if any.

    Returns:
        (height, width).

    Raises:
        UserError: If the file is not an image, or ``labelled`` is another size.
    """
    stored, turned = _header(path)
    size = stored
    if turned:
        pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        size = stored if pixels is None else pixels.shape[:2]
    if labelled not in (None, size):
        reason = ', since EXIF turns it' if labelled == stored else ''
        fix = 'remove the EXIF orientation from the image' if reason else 'put the image there that was labelled'
        raise UserError(
            f'{path} has {size[1]}x{size[0]} pixels{reason}, and its label file says {labelled[1]}x{labelled[0]}: {fix}'
        )
    return size


def is_turned(path: Path) -> bool:
    """Whether EXIF turns or mirrors an image when it is shown and when training loads it."""
    return _header(path)[1]


def _header(path: Path) -> tuple[tuple[int, int], bool]:
    """(height, width) as stored in an image file, and whether EXIF turns or mirrors the image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)  # training reads such images
            with Image.open(path) as image:
                return image.size[::-1], image.getexif().get(ORIENTATION, 1) > 1
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError, TypeError) as error:
        raise UserError(f'{path} is not an image that can be read: {error}') from error


def png_mask(text: str, compressed: bool = False) -> np.ndarray:
    """Read a mask that a label file has inside.

    Args:
        text: A PNG in base64.
        compressed: Whether zlib has compressed the PNG.

    Returns:
        ``(H, W)``; pixels of the object are not 0. If the PNG is transparent, these are the opaque pixels.
    """
    try:
        content = base64.b64decode(text)
        if compressed:
            content = zlib.decompress(content)
        with Image.open(io.BytesIO(content)) as image:
            if 'A' in image.mode or 'transparency' in image.info:
                return np.asarray(image.convert('RGBA'))[..., 3]
            return np.asarray(image.convert('L'))
    except (zlib.error, OSError, SyntaxError, ValueError) as error:
        raise UserError(f'its mask is not a PNG in base64: {error}') from error
