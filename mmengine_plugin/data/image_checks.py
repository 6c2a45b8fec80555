"""Problems of a data set, and the check of image files that detection and segmentation share."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import mmcv
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio
from mmengine.dataset import BaseDataset
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm


@dataclass(frozen=True)
class Problem:
    """One problem of a data set.

    Attributes:
        file: The file that has it.
        kind: What is wrong, in the same words for all problems of this kind.
        detail: What is wrong in this case.
        fix: What to do, in the same words for all problems of this kind.
    """

    file: str
    kind: str
    detail: str
    fix: str


class LoadedImage(NamedTuple):
    """An image file that training can read.

    Attributes:
        content: The bytes of the file.
        pixels: ``(H, W)`` or ``(H, W, C)``, as the training's transform loads them.
        mode: PIL's mode, such as ``'RGB'``; ``None`` if PIL cannot read the file.
        stored: (height, width) as stored in the file, before the EXIF orientation is applied; ``None`` if PIL cannot
            read it.
    """

    content: bytes
    pixels: np.ndarray
    mode: str | None
    stored: tuple[int, int] | None


def transform_of(dataset: BaseDataset, kind: type[BaseTransform]) -> BaseTransform:
    """The first transform of a type in a data set's pipeline; if there is none, one with the type's defaults."""
    return next((t for t in dataset.pipeline.transforms if isinstance(t, kind)), None) or kind()


def check_all(check: Callable, items: Sequence, label: str) -> list:
    """Call ``check`` on all items, with a progress bar. Threads help, since decoders release the interpreter's lock."""
    with ThreadPoolExecutor() as pool:
        return list(tqdm(pool.map(check, items), label, len(items), mininterval=1))


def load_image(path: str, flag: str, loader: BaseTransform) -> LoadedImage | Problem:
    """Read an image file as training does, and find out why it cannot be read.

    OpenCV fills the lost part of a truncated file with grey and reports nothing, so PIL reads the file, too.

    Args:
        path: The file.
        flag: mmcv's color type, such as ``'color'`` or ``'unchanged'``.
        loader: The mmcv transform that loads the image in training.

    Returns:
        The image, or the problem of the file.
    """
    try:
        content = fileio.get(path, backend_args=loader.backend_args)
    except FileNotFoundError:
        return Problem(path, 'missing file', 'it is not there', 'put it there, or take out what names it')
    except OSError as error:
        return Problem(path, 'unreadable file', f'{error.strerror}', 'look at its permissions and at the disk')
    if not content:
        return Problem(path, 'empty file', 'it has 0 bytes', 'copy or download it again')
    mode = stored = None
    try:
        with Image.open(io.BytesIO(content)) as image:
            mode, stored = image.mode, image.size[::-1]
            image.load()
    except (UnidentifiedImageError, Image.DecompressionBombError):
        pass  # PIL cannot read all formats; the transform's own decoder decides
    except (OSError, SyntaxError, ValueError) as error:
        return Problem(path, 'damaged image', str(error), 'copy or download it again')
    try:
        pixels = mmcv.imfrombytes(content, flag, backend=loader.imdecode_backend)
    except (cv2.error, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        pixels = None
    if pixels is None:
        return Problem(
            path,
            'no image that training can read',
            f'it begins with {content[:24]!r}',
            'download it again if it is a web page or a pointer to the real file, or convert it to JPEG or PNG',
        )
    return LoadedImage(content, pixels, mode, stored)


def check_image(path: str, loader: BaseTransform, size: tuple[int, int] | None, whose: str) -> Iterator[Problem]:
    """Check an image as training loads it.

    Greyscale, palettes and alpha are no problems: mmcv's decoders turn each into the visible colours.

    Args:
        path: The file.
        loader: The pipeline's LoadImageFromFile.
        size: (height, width) of the image for which the labels were made, if known.
        whose: Words for the source of ``size`` in messages, such as ``'its label map has'``.

    Yields:
        The problems of the image.
    """
    image = load_image(path, loader.color_type, loader)
    if isinstance(image, Problem):
        yield image
        return
    height, width = image.pixels.shape[:2]
    if image.mode == 'CMYK':
        yield Problem(
            path,
            'CMYK image',
            'it is turned into RGB without its colour profile: training may see other colours than those labelled',
            'save it as RGB',
        )
    jpeg = image.content.startswith(b'\xff\xd8')  # always has 8 bits, and decoding it again would take time
    if not jpeg and mmcv.imfrombytes(image.content, 'unchanged', backend='cv2').dtype == np.uint16:
        yield Problem(
            path,
            'image of 16 bits a channel',
            f'training keeps the upper 8 bits, of which the brightest is {image.pixels.max()} of 255',
            'stretch the values to the range that you need and save them with 8 bits',
        )
    if size not in (None, (height, width)):
        turned = image.stored == size  # EXIF turns it
        yield Problem(
            path,
            'image that EXIF turns away from its labels' if turned else 'image of another size than its labels',
            f'loaded, it has {width}x{height} pixels, {whose} {size[1]}x{size[0]}',
            "set color_type='color_ignore_orientation' in every LoadImageFromFile, or remove the EXIF orientation from "
            'the files, if the labels are made for the unturned pixels; correct the labels otherwise'
            if turned
            else 'put the image there that was labelled, or correct the labels',
        )
