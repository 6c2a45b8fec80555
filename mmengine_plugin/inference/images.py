"""Images for prediction: finding them, reading them, and naming their results."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torchvision.datasets.folder import IMG_EXTENSIONS, is_image_file

from backbones.errors import UserError

from ..atomic_files import make_folder


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


def read_image(path: str) -> Image.Image:
    """Read an image as viewers show it: turned by EXIF, in 8-bit RGB, the first of several pages or frames.

    Raises:
        UserError: If it cannot be read. The message is the reason, without the path.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith('I;16'):  # PIL would cut off at 255; OpenCV, in training, takes the upper byte
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            elif image.mode in ('I', 'F'):
                raise ValueError('its pixels are 32-bit numbers of no known range: save it with 8 or 16 bits')
            return image.convert('RGB')
    except Exception as error:  # PIL raises all kinds of exceptions for damaged files
        raise UserError(str(getattr(error, 'strerror', None) or error)) from error


def _files(given: str) -> list[str]:
    """The files that one argument names, sorted."""
    if os.path.isdir(given):
        below = glob.iglob(os.path.join(glob.escape(given), '**'), recursive=True)
        return sorted(path for path in below if is_image_file(path) and os.path.isfile(path))
    if os.path.exists(given):
        return [given]
    return [path for match in sorted(glob.glob(given, recursive=True)) for path in _files(match)]


def png_names(paths: list[str]) -> dict[str, str]:
    """Name the results of each image: its path relative to the common folder of all images, ending in ``.png``."""
    root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    full = [os.path.relpath(path, root) for path in paths]
    stems = [os.path.splitext(name)[0] for name in full]
    unique = stems if len(set(stems)) == len(stems) else full  # a.jpg and a.png must not share a name
    return {path: f'{name}.png' for path, name in zip(paths, unique, strict=True)}
