"""Coloured masks as label maps, whose pixels are the indices of classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from backbones.errors import UserError

from .color_masks import IGNORED, RGB, colors_to_indices, pack_colors, unpack_color

ENDINGS = ('.bmp', '.gif', '.jpeg', '.jpg', '.npy', '.png', '.tif', '.tiff', '.webp')
LOSSY = ('JPEG', 'MPO')
VOC_BORDER = (224, 224, 192)  # colour of the pixels between two objects, which belong to no class
LISTED = 20  # colours in a message


def write_label_maps(src: Path, out: Path, colors: Mapping[str, RGB]) -> tuple[list[str], list[str]]:
    """Write all masks of a folder as 8-bit PNGs of class indices. VOC's border becomes 255, which is ignored.

    Args:
        src: Folder of the masks; the folders inside it are kept.
        out: Folder to write to.
        colors: Colour of each class, in the order of their indices. It may be empty if all masks are numpy files that
            hold indices.

    Returns:
        The names of the masks below ``src`` without their endings, and the names of the classes.

    Raises:
        UserError: If a mask cannot be read or has another colour. The message names the file.
    """
    ignored = [VOC_BORDER] if VOC_BORDER not in colors.values() else []
    written: dict[Path, Path] = {}
    last = 0
    for path in tqdm(mask_files(src), 'masks', mininterval=1, leave=False, disable=None):
        place = path.relative_to(src).with_suffix('.png')
        if place in written:
            raise UserError(f'{path} and {written[place]} would both become {place}: keep one')
        written[place] = path
        labels = read_mask(path)
        if labels.ndim == 3:
            if not colors:
                raise UserError(f'name the classes, for example: --colors {suggest_colors(src)}')
            try:
                labels = colors_to_indices(labels, list(colors.values()), ignored)
            except UserError as error:
                raise UserError(f'{path}: {error}; add its class to the colours') from error
        last = max(last, int(labels.max(where=labels < IGNORED, initial=0)))
        (out / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(labels).save(out / place)
    names = [place.with_suffix('').as_posix() for place in written]
    return names, list(colors) or [f'class{index}' for index in range(last + 1)]


def mask_files(folder: Path) -> list[Path]:
    """The masks below a folder, sorted."""
    files = sorted(path for path in folder.rglob('*') if path.suffix.lower() in ENDINGS and path.name[0] != '.')
    if not files:
        raise UserError(f'{folder} has no masks that end in {", ".join(ENDINGS)}')
    return files


def read_mask(path: Path) -> np.ndarray:
    """Read a mask.

    Returns:
        The colours of an image, ``(H, W, 3)``, uint8, RGB: a palette gives its colours, and grey is repeated. A numpy
        file may also hold class indices, ``(H, W)``, uint8.

    Raises:
        UserError: If the file is not an image of 8 bits, or is a JPEG, which changes colours.
    """
    if path.suffix.lower() == '.npy':
        return _read_array(path)
    try:
        with Image.open(path) as image:
            if image.format in LOSSY:
                raise UserError(f'{path} is a JPEG, which blends the colours of neighbours: export the masks as PNG')
            if image.mode not in ('1', 'L', 'P', 'RGB', 'RGBA'):
                raise UserError(f'{path} has the mode {image.mode}: a coloured mask has 8 bits per channel')
            return np.array(image.convert('RGB'))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f'{path} is not an image that can be read: {error}') from error


def _read_array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f'{path} is not a numpy file that can be read: {error}') from error
    if array.dtype == bool:
        array = array.astype(np.uint8)
    fits = np.issubdtype(array.dtype, np.integer) and array.size and array.min() >= 0 and array.max() <= IGNORED
    if not fits or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise UserError(
            f'{path} has the shape {array.shape} and the type {array.dtype}: a mask has (height, width) indices or '
            '(height, width, 3) colours, whole numbers from 0 to 255'
        )
    return array.astype(np.uint8)


def suggest_colors(folder: Path) -> str:
    """What to type after ``--colors``: a made-up class name for each colour of the masks."""
    found: set[int] = set()
    for path in mask_files(folder):
        mask = read_mask(path)
        if mask.ndim == 3:
            found.update(np.unique(pack_colors(mask)).tolist())
        if len(found) > LISTED:
            raise UserError(
                f'the masks in {folder} have more than {LISTED} colours, so their borders may be blurred: export them '
                'as PNG without smoothing, or name the colours in a labelmap.txt'
            )
    colors = [','.join(map(str, unpack_color(color))) for color in sorted(found)]
    return ' '.join(f'class{index}:{color}' for index, color in enumerate(colors))
