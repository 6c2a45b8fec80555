"""Faults of a data set, and the check of image files that detection and segmentation share."""

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
class Fault:
    """One fault of a data set.

    Attributes:
        file: Where it is.
        kind: What is wrong, in the same words for all faults of its kind.
        what: The particulars of this one.
        cure: What to do, the same for all faults of its kind.
    """

    file: str
    kind: str
    what: str
    cure: str


class Loaded(NamedTuple):
    """An image file and its pixels as training gets them; its mode and (height, width) before EXIF, as PIL has them."""

    content: bytes
    pixels: np.ndarray
    mode: str | None
    stored: tuple[int, int] | None


def transform_of(dataset: BaseDataset, kind: type[BaseTransform]) -> BaseTransform:
    """The first transform of a kind in a data set's pipeline, or one of the kind's defaults where there is none."""
    return next((t for t in dataset.pipeline.transforms if isinstance(t, kind)), None) or kind()


def each(check: Callable, items: Sequence, what: str) -> list:
    """Call ``check`` on all items with a progress bar; in threads, as decoders release the interpreter's lock."""
    with ThreadPoolExecutor() as pool:
        return list(tqdm(pool.map(check, items), what, len(items), mininterval=1))


def load(path: str, flag: str, loader: BaseTransform) -> Loaded | Fault:
    """Read an image file as ``loader`` does, an mmcv transform, but answer what it would hide or die of.

    OpenCV makes the lost part of a truncated file grey and says nothing that a program could see, so PIL reads it too.
    """
    try:
        content = fileio.get(path, backend_args=loader.backend_args)
    except FileNotFoundError:
        return Fault(path, 'missing file', 'it is not there', 'put it there, or take out what names it')
    except OSError as error:
        return Fault(path, 'unreadable file', f'{error.strerror}', 'look at its permissions and at the disk')
    if not content:
        return Fault(path, 'empty file', 'it has 0 bytes', 'copy or download it again')
    mode = stored = None
    try:
        with Image.open(io.BytesIO(content)) as image:
            mode, stored = image.mode, image.size[::-1]
            image.load()
    except (UnidentifiedImageError, Image.DecompressionBombError):
        pass  # not for PIL; the transform's own decoder has the last word
    except (OSError, SyntaxError, ValueError) as error:
        return Fault(path, 'damaged image', str(error), 'copy or download it again')
    try:
        pixels = mmcv.imfrombytes(content, flag, backend=loader.imdecode_backend)
    except (cv2.error, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        pixels = None
    if pixels is None:
        return Fault(
            path,
            'no image that training can read',
            f'it begins with {content[:24]!r}',
            'download it again if it is a web page or a pointer to the real file, or convert it to JPEG or PNG',
        )
    return Loaded(content, pixels, mode, stored)


def check_image(path: str, loader: BaseTransform, size: tuple[int, int] | None, whose: str) -> Iterator[Fault]:
    """Check an image as training loads it.

    Greyscale, palettes and alpha are no faults: mmcv's decoders turn each into the colours that one sees.

    Args:
        path: The file.
        loader: The pipeline's LoadImageFromFile.
        size: (height, width) that its labels are made for, if known.
        whose: Who says so, for the messages.
    """
    image = load(path, loader.color_type, loader)
    if isinstance(image, Fault):
        yield image
        return
    height, width = image.pixels.shape[:2]
    if image.mode == 'CMYK':
        yield Fault(
            path,
            'CMYK image',
            'it is turned into RGB without its colour profile: training may see other colours than those labelled',
            'save it as RGB',
        )
    jpeg = image.content.startswith(b'\xff\xd8')  # has 8 bits, and decoding again takes its time
    if not jpeg and mmcv.imfrombytes(image.content, 'unchanged', backend='cv2').dtype == np.uint16:
        yield Fault(
            path,
            'image of 16 bits a channel',
            f'training keeps the upper 8 bits, of which the brightest is {image.pixels.max()} of 255',
            'stretch the values to the range that you need and save them with 8 bits',
        )
    if size not in (None, (height, width)):
        turned = image.stored == size
        yield Fault(
            path,
            'image that EXIF turns away from its labels' if turned else 'image of another size than its labels',
            f'loaded, it has {width}x{height} pixels, {whose} {size[1]}x{size[0]}',
            "set color_type='color_ignore_orientation' in every LoadImageFromFile, or remove the EXIF orientation from "
            'the files, if the labels are made for the unturned pixels; correct the labels otherwise'
            if turned
            else 'put the image there that was labelled, or correct the labels',
        )
