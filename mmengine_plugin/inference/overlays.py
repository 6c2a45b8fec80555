"""Predictions drawn over their images, with the classes and their colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .collecting import Detection, LabelMap
from .fonts import font_for
from .run_lengths import sampled

Color = tuple[int, int, int]


def draw_detections(
    picture: Image.Image,
    found: Sequence[Detection],
    shape: tuple[int, int],
    classes: Sequence[str],
    palette: Sequence[Color],
) -> Image.Image:
    """Draw boxes, masks, classes and scores.

    Args:
        picture: The image, or a smaller copy of it.
        found: Detections, in pixels of the image.
        shape: (height, width) of the image.
        classes: Names of the classes.
        palette: Color of each class.
    """
    pixels = np.array(picture)
    rows, columns = _centres(picture, shape)
    found = sorted(found, key=lambda one: one.score)  # the best one is drawn last
    for one in found:
        if one.runs is not None and len(one.runs):
            first, last = one.runs[0] // shape[0], (one.runs[-1] - 1) // shape[0]
            part = slice(*np.searchsorted(columns, (first, last + 1)))
            inside = sampled(one.runs, shape[0], rows, columns[part])
            pixels[:, part][inside] = pixels[:, part][inside] // 2 + np.array(palette[one.label], np.uint8) // 2
    picture = Image.fromarray(pixels)
    draw, line = ImageDraw.Draw(picture), max(1, max(picture.size) // 600)
    size = max(11, max(picture.size) // 80)
    font = font_for(classes, size)
    x_scale, y_scale = picture.width / shape[1], picture.height / shape[0]
    for one in found:
        x1, x2 = (x * x_scale for x in one.box[::2])
        y1, y2 = (y * y_scale for y in one.box[1::2])
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=palette[one.label], width=line)
        text = f'{classes[one.label]} {one.score:.0%}'
        top = max(0, y1 - size - 4)
        right = x1 + draw.textlength(text, font) + 4
        draw.rectangle((x1, top, right, top + size + 4), fill=palette[one.label])
        draw.text((x1 + 2, top + size / 2 + 2), text, _legible(palette[one.label]), font, anchor='lm')
    return picture


def draw_labels(
    picture: Image.Image,
    label_map: LabelMap,
    palette: Sequence[Color],
    legend: Sequence[tuple[Color, str]],
) -> Image.Image:
    """Blend an image, or a smaller copy of it, with the colors of its label map, and add a legend."""
    rows, columns = _centres(picture, label_map.labels.shape)
    colors = np.array(palette, np.uint8)[label_map.labels[rows][:, columns]]
    return with_legend(Image.blend(picture, Image.fromarray(colors), 0.5), legend)


def with_legend(picture: Image.Image, rows: Sequence[tuple[Color, str]]) -> Image.Image:
    """Add a white strip at the right of a picture, with a color and a text in each row."""
    size = max(12, picture.height // 40)
    font, line = font_for((text for _, text in rows), size), round(1.5 * size)
    width = 3 * size + round(max(font.getlength(text) for _, text in rows))
    sheet = Image.new('RGB', (picture.width + width, max(picture.height, line * len(rows) + size)), 'white')
    sheet.paste(picture)
    draw = ImageDraw.Draw(sheet)
    for i, (color, text) in enumerate(rows):
        left, top = picture.width + size // 2, size // 2 + i * line
        draw.rectangle((left, top, left + size, top + size), color, 'black')
        draw.text((left + 1.5 * size, top + size / 2), text, 'black', font, anchor='lm')
    return sheet


def _centres(picture: Image.Image, shape: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows and columns of an image of a shape at the centres of the pixels of its smaller copy."""
    height, width = shape
    rows = (np.arange(picture.height) + 0.5) * height / picture.height
    columns = (np.arange(picture.width) + 0.5) * width / picture.width
    return rows.astype(np.int64), columns.astype(np.int64)


def _legible(color: Color) -> str:
    """Black or white, whichever is easier to read on a color (its luma by ITU-R BT.601)."""
    red, green, blue = color
    return 'black' if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else 'white'
