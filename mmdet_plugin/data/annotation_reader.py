"""Reads annotation files in COCO's format, as annotation tools export them."""

import json
import os
from pathlib import Path
from typing import Any

from mmengine import fileio

from mmengine_plugin.data.image_checks import Problem

from .annotation_file import AnnotationFile
from .completion import FIELDS, complete

OTHER_FORMATS = {'.csv': 'CSV', '.txt': 'text', '.xml': 'XML', '.yaml': 'YAML', '.yml': 'YAML'}
COCO_FORMAT = "export it in COCO's format: https://cocodataset.org/#format-data"


def read_annotations(path: str | Path, backend_args: dict | None = None, name: str | None = None) -> AnnotationFile:
    """Read an annotation file, and complete its entries.

    Args:
        path: The file.
        backend_args: Arguments of mmengine's file backend, if the file is on another machine.
        name: The name of the file in messages, if it differs from ``path``.

    Returns:
        The completed content. If the file cannot be read, it is empty, and ``problems`` says why.
    """
    name = name or str(path)
    content = _load(path, backend_args, name)
    if isinstance(content, Problem):
        return AnnotationFile(name, {}, problems=[content])
    file = AnnotationFile(name, content | {key: content.get(key) or [] for key in FIELDS})
    complete(file)
    return file


def _load(path: str | Path, backend_args: dict | None, name: str) -> dict[str, Any] | Problem:
    """The JSON of an annotation file, or why it cannot be used."""
    try:
        data = fileio.get(path, backend_args=backend_args)
        content = json.loads(data)  # in UTF-8, UTF-16 or UTF-32, with a byte order mark or without
    except FileNotFoundError:
        where = f'it is not there, seen from {Path.cwd()}'
        fix = 'put or link it there, or set data_root and ann_file in the data loaders of the config'
        return Problem(name, 'missing annotation file', where, fix)
    except IsADirectoryError:
        files = ', '.join(sorted(file.name for file in Path(path).glob('*.json'))[:5])
        where = f'it is a folder with the files {files}' if files else 'it is a folder without *.json'
        return Problem(name, 'unreadable annotation file', where, 'name a file in ann_file')
    except OSError as error:
        return Problem(name, 'unreadable annotation file', f'{error.strerror}', 'check its permissions and the disk')
    except ValueError as error:
        other = OTHER_FORMATS.get(Path(name).suffix.lower())
        if data[:200].lstrip().startswith(b'<'):
            other = 'XML'
        if other:
            fix = "convert the data set by tools/convert_dataset.py, or export COCO's JSON from your tool"
            return _other_format(name, f'it is {other}', fix)
        return Problem(
            name, 'damaged annotation file', f'it is damaged or not JSON: {error}', 'copy, download or export it again'
        )
    if not isinstance(content, dict):
        return _other_format(name, f'it is a {type(content).__name__} of JSON, and not a dict with the list "images"')
    missing = [key for key in ('images', 'categories') if not isinstance(content.get(key), list)]
    if missing == ['categories'] and content.get('categories') is None:
        used = sorted({str(a.get('category_id')) for a in content.get('annotations') or [] if isinstance(a, dict)})
        ids = f', and its annotations have the category_id {", ".join(used[:10])}' if used else ''
        return _other_format(
            name, f'it has no list "categories"{ids}', 'add "categories": [{"id": 1, "name": "cat"}, ...]'
        )
    if not missing and not isinstance(content.get('annotations', []), list | None):
        missing = ['annotations']
    if missing:
        return _other_format(name, 'it has ' + ' and '.join(f'no list "{key}"' for key in missing))
    return content


def _other_format(name: str, detail: str, fix: str = COCO_FORMAT) -> Problem:
    return Problem(name, "annotation file that is not in COCO's format", detail, fix)


def without_root(path: str, data_root: str | None) -> str | None:
    """What to type if a path is not there because it has ``data_root`` twice.

    Args:
        path: An absolute path, or one that begins with ``data_root``.
        data_root: The setting of the data set.
    """
    if not data_root or Path(path).exists():
        return None
    written = Path(os.path.relpath(path, data_root))
    if not written.exists():
        return None
    right = os.path.relpath(written, data_root)
    return f'{written} is there, and ann_file and data_prefix are relative to data_root: write {right!r}'
