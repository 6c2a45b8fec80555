"""Fonts with the letters of class names in any script."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterable

import matplotlib
from matplotlib.font_manager import FontEntry, fontManager
from matplotlib.ft2font import FT2Font
from mmengine.logging import print_log
from PIL import ImageFont

PLACEHOLDERS = 'Last Resort'  # these fonts show a box for every letter


def font_for(texts: Iterable[str], size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Find a font for PIL that has the letters of some texts.

    Args:
        texts: The texts to draw.
        size: Height of the letters in pixels.

    Returns:
        PIL's own font for ASCII; otherwise the installed font that has most of the letters.
    """
    entry = _installed_font(_letters(texts))
    return ImageFont.truetype(entry.fname, size) if entry else ImageFont.load_default(size)


def use_font_for(texts: Iterable[str]) -> None:
    """Let matplotlib, with which mmdet draws, use a font that has the letters of some texts."""
    warnings.filterwarnings('ignore', r'Glyph \d+ .* missing from', UserWarning)  # once for each letter and picture
    entry = _installed_font(_letters(texts))
    if entry:
        matplotlib.rcParams['font.sans-serif'] = [entry.name, *matplotlib.rcParams['font.sans-serif']]


def _letters(texts: Iterable[str]) -> frozenset[str]:
    """The letters beyond ASCII in some texts."""
    return frozenset(letter for letter in ''.join(texts) if not letter.isascii())


@functools.cache
def _installed_font(letters: frozenset[str]) -> FontEntry | None:
    """The installed font that has most of the letters; ``None`` if there are no letters or no font has any.

    If some letters are in no font, this logs a warning.
    """
    if not letters:
        return None
    codes, best, found = {ord(letter) for letter in letters}, None, 0
    # of several fonts that have all letters, an upright one of normal weight
    entries = sorted(
        fontManager.ttflist, key=lambda e: (e.style != 'normal', e.weight not in (400, 'normal', 'regular'))
    )
    for entry in entries:
        if entry.name.startswith(PLACEHOLDERS):
            continue
        try:
            has = len(codes & FT2Font(entry.fname).get_charmap().keys())
        except (OSError, RuntimeError):  # a font that was removed or is damaged
            continue
        if has > found:
            best, found = entry, has
        if found == len(codes):
            break
    else:
        print_log(
            f'no installed font has all letters of the names ({"".join(sorted(letters))[:20]}): the pictures show '
            "boxes instead. Install one, such as the package fonts-noto-cjk, and delete matplotlib's cache: "
            f'{matplotlib.get_cachedir()}',
            'current',
            logging.WARNING,
        )
    return best
