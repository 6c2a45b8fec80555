"""Images for prediction: finding them, reading them, and naming their results."""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from mmcv.transforms import LoadImageFromFile
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS, is_image_file

from backbones.errors import UserError

from ..atomic_files import make_folder
from ..data.image_checks import Problem, load_image


def find_images(inputs: str | Path | Iterable[str | Path], out_dir: str | Path) -> list[str]:
    """Find the images that files, folders and patterns name, and make the folder for the results.

    Args:
        inputs: Files, folders and patterns such as ``'day*/*.jpg'``. Of a folder, all files below it are taken that end
            in one of torchvision's ``IMG_EXTENSIONS``, in upper or lower case, except hidden ones.
        out_dir: Folder for the results.

    Returns:
        Paths of the images, each once.

    Raises:
        UserError: If an input does not exist or holds no image, if ``out_dir`` cannot be written to, or if images of
            ``inputs`` lie in it.
    """
    inputs = [inputs] if isinstance(inputs, (str, Path)) else inputs
    found = {str(given): _files(str(given)) for given in inputs}
    for given, files in found.items():
        if not files:
            lacks = f'holds no image ({" ".join(IMG_EXTENSIONS)})' if os.path.isdir(given) else 'does not exist'
            raise UserError(f'{given} {lacks} (seen from {Path.cwd()})')
    paths = list({os.path.abspath(path): path for files in found.values() for path in files}.values())
    if not paths:
        raise UserError('no image is named')
    out_dir = Path(os.path.abspath(out_dir))
    inside = [path for path in paths if out_dir in Path(os.path.abspath(path)).parents]
    if inside:
        raise UserError(f'{inside[0]} lies in {out_dir}, where the results go: name another folder for these')
    make_folder(out_dir)
    return paths


def read_image(path: str, loader: Callable[[dict], dict]) -> np.ndarray:
    """Read an image as the model gets it: by the config's own loader.

    Args:
        path: The file.
        loader: The transform that loads images in the config's pipeline, such as mmcv's LoadImageFromFile.

    Returns:
        The pixels ``(H, W)`` or ``(H, W, C)``.

    Raises:
        UserError: If it cannot be read or is cut off. The message is the reason, without the path.
    """
    if isinstance(loader, LoadImageFromFile):
        _refuse_damaged(path, loader)
    try:
        return loader(dict(img_path=path))['img']
    except Exception as error:  # a loader of another kind may raise anything
        raise UserError(getattr(error, 'strerror', None) or str(error) or repr(error)) from error


def rgb_picture(pixels: np.ndarray, loader: Callable, longest: int = 0) -> Image.Image:
    """Show what a loader returns as a picture: its first three channels, or its first one in grey.

    Pixels of other types than uint8 are stretched from their lowest to their highest value.

    Args:
        pixels: ``(H, W)`` or ``(H, W, C)``.
        loader: The transform that loaded them. mmcv's loaders return BGR, except with ``imdecode_backend='tifffile'``,
            which keeps the order of the file.
        longest: Longest side of the picture in pixels; 0 keeps the size of the image.
    """
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    pixels = pixels[..., : 3 if pixels.shape[2] >= 3 else 1]
    height, width = pixels.shape[:2]
    if 0 < longest < max(height, width):
        factor = longest / max(height, width)
        size = (max(1, round(width * factor)), max(1, round(height * factor)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA).reshape(*size[::-1], -1)
    if pixels.dtype != np.uint8:
        low, high = float(pixels.min()), float(pixels.max())
        pixels = ((pixels.astype(np.float32) - low) * (255 / max(high - low, 1e-9))).astype(np.uint8)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    elif getattr(loader, 'imdecode_backend', 'cv2') != 'tifffile':
        pixels = pixels[..., ::-1]
    return Image.fromarray(np.ascontiguousarray(pixels))


def png_names(paths: Sequence[str]) -> dict[str, str]:
    """Name the results of each image: its path relative to the common folder of all images, ending in ``.png``."""
    root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    full = [os.path.relpath(path, root) for path in paths]
    stems = [os.path.splitext(name)[0] for name in full]
    unique = stems if len(set(stems)) == len(stems) else full  # a.jpg and a.png must not share a name
    return {path: f'{name}.png' for path, name in zip(paths, unique, strict=True)}


def _refuse_damaged(path: str, loader: LoadImageFromFile) -> None:
    """Raise a :class:`UserError` if an image cannot be read, or is cut off, which OpenCV does not report."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', Image.DecompressionBombWarning)
        problem = load_image(path, loader.color_type, loader)
    if not isinstance(problem, Problem):
        return
    try:
        loader(dict(img_path=path))
    except cv2.error as error:
        if 'CV_IO_MAX_IMAGE' in str(error):
            raise UserError(
                'it has more than the 2**30 pixels that OpenCV reads: set OPENCV_IO_MAX_IMAGE_PIXELS=1099511627776 '
                'in the environment before the program starts'
            ) from error
    except Image.DecompressionBombError as error:
        raise UserError(
            f"it has more than the {2 * Image.MAX_IMAGE_PIXELS} pixels that PIL reads: set imdecode_backend='cv2' in "
            "the config's LoadImageFromFile"
        ) from error
    except Exception:  # `problem` says it in better words
        pass
    raise UserError(f'{problem.kind}: {problem.detail}; {problem.fix}')


def _files(given: str) -> list[str]:
    """The files that one argument names, sorted."""
    if os.path.isdir(given):
        below = glob.iglob(os.path.join(glob.escape(given), '**'), recursive=True)
        return sorted(path for path in below if is_image_file(path) and os.path.isfile(path))
    if os.path.exists(given):
        return [given]
    return [path for match in sorted(glob.glob(given, recursive=True)) for path in _files(match)]
