"""Problems of a data set, and the check of image files that detection and segmentation share."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple

import mmcv
import numpy as np
from mmcv.image import io as mmcv_io
from mmcv.transforms import BaseTransform
from mmengine import fileio
from mmengine.dataset import BaseDataset
from PIL import ExifTags, Image, UnidentifiedImageError
from tqdm import tqdm

from backbones.errors import UserError

# the packages that have mmcv's optional decoders
PACKAGES = dict(turbojpeg='PyTurboJPEG', tifffile='tifffile')


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

    def __str__(self) -> str:
        return f'{self.file}: {self.kind}: {self.detail}; {self.fix}'


class LoadedImage(NamedTuple):
    """An image file that training can read.

    Attributes:
        content: The bytes of the file.
        pixels: ``(H, W)`` or ``(H, W, C)``, as the training's transform loads them.
        mode: PIL's mode, such as ``'RGB'``; ``None`` if PIL cannot read the file.
        stored: (height, width) as stored in the file, before the EXIF orientation is applied; ``None`` if PIL cannot
            read it.
        exif_turned: Whether the EXIF orientation swaps height and width.
    """

    content: bytes
    pixels: np.ndarray
    mode: str | None
    stored: tuple[int, int] | None
    exif_turned: bool


def transform_of(dataset: BaseDataset, kind: type[BaseTransform]) -> BaseTransform:
    """The first transform of a type in a data set's pipeline; if there is none, one with the type's defaults.

    Raises:
        UserError: If the transform decodes images by a backend that is not installed.
    """
    transform = next((t for t in dataset.pipeline.transforms if isinstance(t, kind)), None) or kind()
    backend = decoder_of(transform)
    where = f'imdecode_backend={backend!r} of {type(transform).__name__}'
    if backend not in mmcv_io.supported_backends:
        raise UserError(f'{where} is unknown: write one of {", ".join(mmcv_io.supported_backends)}')
    package = PACKAGES.get(backend)
    if package and not find_spec(backend):
        raise UserError(f"{where} needs a package: type `pip install {package}`, or set imdecode_backend='cv2'")
    if backend == 'turbojpeg' and mmcv_io.jpeg is None:
        raise UserError(f"{where} needs mmcv.use_backend('turbojpeg') before: set imdecode_backend='cv2' otherwise")
    return transform


def decoder_of(loader: BaseTransform) -> str:
    """The name of mmcv's backend that decodes the images of a transform."""
    return getattr(loader, 'imdecode_backend', None) or mmcv_io.imread_backend


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
    mode, stored, exif_turned, too_large = None, None, False, None
    try:
        with Image.open(io.BytesIO(content)) as image:
            mode, stored = image.mode, image.size[::-1]
            exif_turned = image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            image.load()
    except UnidentifiedImageError:
        pass  # PIL cannot read all formats; the transform's own decoder decides
    except Image.DecompressionBombError as error:
        too_large = str(error)  # for PIL; OpenCV reads six times as many pixels. The error would keep the pixels alive
    except Exception as error:  # PIL raises all kinds of exceptions for damaged files
        return Problem(path, 'damaged image', str(error), 'copy or download it again')
    backend = decoder_of(loader)
    try:
        pixels = mmcv.imfrombytes(content, 'color' if backend == 'turbojpeg' else flag, backend=backend)
    except Exception:  # decoders do, too
        pixels = None
    if pixels is None and too_large:
        fix = 'cut the image and its labels into tiles, or '
        if backend == 'cv2':
            fix += 'allow more pixels by the environment variable OPENCV_IO_MAX_IMAGE_PIXELS'
        else:
            fix += "set imdecode_backend='cv2', which reads up to 2**30 pixels"
        return Problem(path, f'image that is too large for the decoder {backend}', too_large, fix)
    if pixels is None and _is_32_bits(content, backend):
        return Problem(
            path,
            'image of 32 bits a channel',
            f'OpenCV cannot load it as color_type={flag!r}',
            "stretch the values to the range that you need and save them with 8 bits, or set color_type='unchanged'",
        )
    if pixels is None:
        return Problem(
            path,
            'no image that training can read',
            f'it begins with {content[:24]!r}',
            'download it again if it is a web page or a pointer to the real file, or convert it to JPEG or PNG',
        )
    return LoadedImage(content, pixels, mode, stored, exif_turned)


def _is_32_bits(content: bytes, backend: str) -> bool:
    """Whether OpenCV reads an image only as it is, because its values have 32 bits, such as fractions in a TIFF."""
    if backend != 'cv2':
        return False
    unchanged = mmcv.imfrombytes(content, 'unchanged', backend='cv2')
    return unchanged is not None and unchanged.dtype.itemsize >= 4


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
    lost_bits = _lost_bits(image, decoder_of(loader))
    if lost_bits:
        yield Problem(
            path,
            'image of 16 bits a channel',
            lost_bits,
            'stretch the values to the range that you need and save them with 8 bits',
        )
    if size in (None, (height, width)):
        return
    detail = f'loaded, it has {width}x{height} pixels, {whose} {size[1]}x{size[0]}'
    if image.stored == size:
        kind = 'image that EXIF turns away from its labels'
        fix = (
            "set color_type='color_ignore_orientation' in every LoadImageFromFile, or remove the EXIF orientation from "
            'the files, if the labels are made for the unturned pixels; correct the labels otherwise'
        )
    elif image.exif_turned and size == (width, height):
        kind = 'image that EXIF turns like its labels, but the loader does not'
        fix = "leave color_type='color_ignore_orientation' out of LoadImageFromFile, and use the decoder cv2 or pillow"
    else:
        kind, fix = (
            'image of another size than its labels',
            'put the image there that was labelled, or correct the labels',
        )
    yield Problem(path, kind, detail, fix)


def _lost_bits(image: LoadedImage, backend: str) -> str | None:
    """What a decoder does to the values of an image with 16 bits; ``None`` if it keeps all values."""
    if image.pixels.dtype != np.uint8:  # the loader keeps them, as with color_type='unchanged'
        return None
    if backend == 'cv2' and not image.content.startswith(b'\xff\xd8'):  # JPEG has 8 bits, and decoding takes time
        if mmcv.imfrombytes(image.content, 'unchanged', backend='cv2').dtype == np.uint16:
            return f'training keeps the upper 8 bits, of which the brightest is {image.pixels.max()} of 255'
    if backend == 'pillow' and image.mode and image.mode.startswith('I'):
        return 'pillow does not scale the values, and all above 255 become 255'
    return None
