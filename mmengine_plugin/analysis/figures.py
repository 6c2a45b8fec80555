"""Figures of an analysis: bars of classes and of errors, and confusion matrices of any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from ..atomic_files import atomic_file
from ..inference.fonts import font_for, use_font_for

COLORS = ('#3b75af', '#ef8636', '#519e3e')
LONGEST_NAME = 22  # characters
CLASSES_IN_COLUMN = 40


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure atomically."""
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120, facecolor='white')


def draw_class_bars(
    classes: Sequence[str], scores: Mapping[str, Sequence[float]], path: str | Path, without: str = 'no objects'
) -> None:
    """Draw the scores of each class as horizontal bars, the best class first, in columns of 40 classes.

    Args:
        classes: Names of the C classes.
        scores: C values from 0 to 1 by the name of the score, at most three names. The first one gives the order. A
            class without a score (nan) comes last.
        path: PNG file to write.
        without: Note at a class without a score.
    """
    use_font_for(classes)
    first = np.nan_to_num(next(iter(scores.values())), nan=-1.0)
    order = np.argsort(-first, kind='stable')
    columns = -(-len(classes) // CLASSES_IN_COLUMN)
    rows = -(-len(classes) // columns)
    figure = Figure(figsize=(max(6.4, 4.4 * columns), 1.3 + 0.25 * max(rows, 3)), layout='constrained')
    height = 0.8 / len(scores)
    limit = 10 * np.ceil(10 * np.nanmax([*scores.values(), [0.1] * len(classes)]))
    for column, axes in enumerate(figure.subplots(1, columns, squeeze=False)[0]):
        part = order[column * rows : (column + 1) * rows]
        for number, (name, values) in enumerate(scores.items()):
            values = 100 * np.asarray(values, float)[part]
            places = np.arange(len(part)) + (number - (len(scores) - 1) / 2) * height
            axes.barh(places, np.nan_to_num(values), height, color=COLORS[number], label=name)
            for place, value in zip(places, values, strict=True):
                if not np.isnan(value):
                    axes.text(value + limit / 100, place, f'{value:.1f}', va='center', fontsize=4.5 + 3 * height)
                elif number == 0:
                    axes.text(limit / 100, round(place), without, va='center', fontsize=7, color='0.4')
        axes.set(xlim=(0, 1.12 * limit), ylim=(rows - 0.4, -0.6))
        axes.tick_params(axis='x', labelsize=7)
        axes.set_yticks(range(len(part)), [_short(classes[index]) for index in part], fontsize=8)
        axes.grid(axis='x', color='0.9')
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.spines[['top', 'right', 'bottom']].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside upper center', ncols=len(scores), frameon=False, fontsize=9)
    save_figure(figure, path)


def draw_error_bars(errors: Mapping[str, Mapping[str, float]], path: str | Path) -> None:
    """Draw the dAP of each kind of error.

    Args:
        errors: dAP in points by the name of the error, by the name of the panel, such as ``'boxes'``.
        path: PNG file to write.
    """
    names = list(next(iter(errors.values())))
    longest = max(value for kinds in errors.values() for value in kinds.values())
    figure = Figure(figsize=(1 + 4.2 * len(errors), 1.2 + 0.36 * len(names)), layout='constrained')
    for axes, (panel, kinds) in zip(figure.subplots(1, len(errors), squeeze=False)[0], errors.items(), strict=True):
        values = list(kinds.values())
        colors = [COLORS[0]] * (len(names) - 2) + [COLORS[1]] * 2  # the last two sum up the others in another way
        axes.barh(range(len(names)), values, 0.7, color=colors)
        for place, value in enumerate(values):
            axes.text(value + 0.02 * max(longest, 1), place, f'{value:.2f}', va='center', fontsize=9)
        axes.set(title=panel, xlim=(0, 1.2 * max(longest, 1)), xlabel='dAP (points of AP50)')
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.grid(axis='x', color='0.9')
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.spines[['top', 'right', 'bottom']].set_visible(False)
    save_figure(figure, path)


def draw_confusion_matrix(matrix: np.ndarray, names: Sequence[str], path: str | Path, title: str) -> None:
    """Draw a confusion matrix; each row is divided by its sum.

    Args:
        matrix: (C, C), numbers of objects or pixels by true and predicted class.
        names: C names.
        path: PNG file to write.
        title: Title of the figure.
    """
    use_font_for(names)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    few = len(names) <= 20
    cell = 0.5 if few else 0.15
    figure = Figure(figsize=(max(2.8 + cell * len(names), 4.6), 2.4 + cell * len(names)), layout='constrained')
    axes = figure.subplots()
    # the root makes small confusions visible beside the diagonal
    image = axes.imshow(shares, cmap='Blues', norm=PowerNorm(0.5, 0, 1), aspect='equal')
    size = 9 if few else 7
    labels, borders = [_short(name) for name in names], np.arange(len(names) + 1) - 0.5
    axes.set_xticks(range(len(names)), labels, fontsize=size, rotation=90)
    axes.set_yticks(range(len(names)), labels, fontsize=size)
    axes.set_xticks(borders, minor=True)
    axes.set_yticks(borders, minor=True)
    axes.grid(which='minor', color='0.88', linewidth=0.5)
    axes.tick_params(which='both', length=0)
    axes.set_title(title, fontsize=11 if few else 16)
    axes.set_xlabel('prediction', fontsize=10 if few else 13)
    axes.set_ylabel('truth', fontsize=10 if few else 13)
    axes.spines[:].set_color('0.88')
    if few:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                color = 'white' if share > 0.4 else 'black'
                axes.text(column, row, f'{100 * share:.0f}', ha='center', va='center', fontsize=8, color=color)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, pad=0.02)
    bar.set_ticks([0, 0.05, 0.2, 0.5, 1], labels=['0', '5', '20', '50', '100 %'])
    bar.outline.set_visible(False)
    save_figure(figure, path)


def with_caption(picture: Image.Image, text: str) -> Image.Image:
    """Add a white strip with a text above a picture."""
    size = max(12, picture.width // 38)
    font = font_for([text], size)
    while text and font.getlength(text) > picture.width - size:
        text = text[1:]  # the end of a path says more than its beginning
    sheet = Image.new('RGB', (picture.width, picture.height + 2 * size), 'white')
    sheet.paste(picture, (0, 2 * size))
    ImageDraw.Draw(sheet).text((size // 2, size), text, 'black', font, anchor='lm')
    return sheet


def tile_size(pictures: Sequence[Path], width: int = 900) -> tuple[int, int]:
    """The (width, height) of the tiles of a sheet, so that the picture of the middle height fills its tile."""
    ratios = []
    for path in pictures:
        with Image.open(path) as picture:
            ratios.append(picture.height / picture.width)
    return width, round(width * float(np.median(ratios)))


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f'{name[: LONGEST_NAME - 1]}…'
