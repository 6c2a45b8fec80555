"""Reading the files of a labelled folder. Each problem becomes one message that names the file and the place in it."""

from __future__ import annotations

import codecs
import contextlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from xml.etree import ElementTree

from tqdm import tqdm

from backbones.errors import UserError

IMAGE_ENDINGS = ('.bmp', '.jfif', '.jpeg', '.jpg', '.png', '.ppm', '.tif', '.tiff', '.webp')
LISTED = 10  # problems in a message
SPLITS = dict(train='train', training='train', val='val', valid='val', validation='val', test='test', testing='test')
# words that may stand beside the name of a split, as in instances_train2017.json
FILLERS = {'annotations', 'coco', 'data', 'images', 'img', 'instances', 'labels', 'set'}

Item = TypeVar('Item')
Result = TypeVar('Result')


class Folder:
    """The files below a folder, without hidden files and the ``__MACOSX`` folders of archives.

    Attributes:
        root: The folder.
        files: All files, sorted by path.
        images: Those with the ending of an image.
        by_stem: The images that have a name, without its ending.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.files: list[Path] = []
        visited = set()
        for place, folders, names in os.walk(self.root, followlinks=True):
            visited.add(os.path.realpath(place))
            folders[:] = [
                name
                for name in folders
                if not name.startswith('.')
                and name != '__MACOSX'
                and os.path.realpath(os.path.join(place, name)) not in visited  # a link to a parent has no end
            ]
            self.files += [Path(place, name) for name in names if not name.startswith('.')]
        self.files.sort()
        self.images = self.with_ending(*IMAGE_ENDINGS)
        self.by_stem: dict[str, list[Path]] = {}
        for path in self.images:
            self.by_stem.setdefault(path.stem, []).append(path)
        self._by_name: dict[str, list[Path]] = {}
        for path in self.files:
            self._by_name.setdefault(path.name.lower(), []).append(path)

    def with_ending(self, *endings: str) -> list[Path]:
        """The files with one of the endings, in upper or lower case."""
        return [path for path in self.files if path.suffix.lower() in endings]

    def find(self, name: str, near: Path) -> Path:
        """Find the file that a label names.

        Args:
            name: A name, or a path that may be relative, absolute, of another machine, or of Windows.
            near: The label file.

        Returns:
            The file at this path, seen from the label file or from the folder; otherwise the one below the folder
            with the same name, in upper or lower case, and the most parent folders in common.

        Raises:
            UserError: If there is no such file, or several that fit equally well.
        """
        name = name.strip().replace('\\', '/')
        for folder in (near.parent, self.root):
            path = Path(os.path.normpath(folder / name))
            if name and path.is_file():
                return path
        wanted = PurePosixPath(name.lower())
        fits: dict[int, list[Path]] = {}
        for path in self._by_name.get(wanted.name, ()):
            pairs = zip(reversed(wanted.parts), reversed(PurePosixPath(path.as_posix().lower()).parts), strict=False)
            equal = next((count for count, (a, b) in enumerate(pairs) if a != b), len(wanted.parts))
            fits.setdefault(equal, []).append(path)
        if not fits:
            raise UserError(f'{name!r} is not in {self.root}: put it there')
        best = fits[max(fits)]
        if len(best) > 1:
            raise UserError(f'{name!r} may be {best[0]} or {best[1]}: write the path in the label file')
        return best[0]

    def split_of(self, path: Path) -> str | None:
        """The split that the folders of a file name, such as ``'val'`` for ``valid/images/a.jpg``.

        The file's own name counts only for a JSON file, since a picture may well show a train.
        """
        names = list(path.relative_to(self.root).parts[:-1]) if path.is_relative_to(self.root) else []
        if path.suffix.lower() == '.json':
            names.append(path.stem)
        for name in reversed(names):
            words = set(re.findall('[a-z]+', name.lower())) - FILLERS
            if len(words) == 1 and words <= SPLITS.keys():
                return SPLITS[words.pop()]
        return None


@contextlib.contextmanager
def reading(place: object) -> Iterator[None]:
    """Put the place that is being read before the message of any error in the body."""
    try:
        yield
    except UserError as error:
        raise UserError(f'{place}: {error}') from error
    except KeyError as error:
        raise UserError(f'{place} has no {error}') from error
    except (AttributeError, IndexError, OverflowError, TypeError, ValueError) as error:
        raise UserError(f'{place} is malformed: {error}') from error


def read_all(read: Callable[[Item], Result], items: Sequence[Item], label: str) -> list[Result]:
    """Call ``read`` on all items.

    Raises:
        UserError: If it fails for some. The message has a line for each of the first ten problems.
    """
    results, problems = [], []
    for item in tqdm(items, label, mininterval=1, leave=False, disable=None):
        try:
            results.append(read(item))
        except UserError as error:
            problems.append(str(error))
    if len(problems) == 1:
        raise UserError(problems[0])
    if problems:
        more = [f'and {len(problems) - LISTED} more'] if len(problems) > LISTED else []
        raise UserError('\n  '.join([f'{len(problems)} problems', *problems[:LISTED], *more]))
    return results


def read_text(path: Path) -> str:
    """Read a text file in UTF-8, or in UTF-16 if it begins with a byte order mark."""
    content = path.read_bytes()
    marked = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode('utf-16' if marked else 'utf-8-sig')
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b'\n') + 1
        raise UserError(
            f'line {line} is not UTF-8: save it as UTF-8, for example by '
            f'"iconv -f gbk -t utf-8 {path.name}", with the encoding that it has'
        ) from error


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(f'it is not JSON: {error}') from error


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a document type before its entities can be expanded: a few lines can grow to gigabytes."""

    def doctype(self, name: str, *_: str | None) -> None:
        raise UserError(f'it has a DOCTYPE ({name}), which these labels do not need: remove that line')


def read_xml(path: Path) -> ElementTree.Element:
    """Read an XML file without a document type."""
    try:
        return ElementTree.fromstring(path.read_bytes(), ElementTree.XMLParser(target=_NoDoctype()))
    except UserError:
        raise
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise UserError(f'it is not XML: {error}; save it as UTF-8') from error


def text_of(element: ElementTree.Element, path: str) -> str:
    """The text of an element inside ``element``."""
    text = element.findtext(path)
    if text is None or not text.strip():
        raise UserError(f'<{element.tag}> has no <{path}>, or an empty one')
    return text.strip()


def number(value: object) -> float:
    """Turn a number, or its text, into a finite float."""
    result = float(value)
    if not math.isfinite(result):
        raise UserError(f'{value} is not a number')
    return result


def name_of(value: object) -> str:
    """Turn the name of a class into a string without blanks around it."""
    if not isinstance(value, str) or not value.strip():
        raise UserError(f'a class has the name {value!r}: write a text')
    return value.strip()
