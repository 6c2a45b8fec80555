"""Paths in configs: ``~`` and environment variables, which mmengine and the data sets take literally."""

from __future__ import annotations

import os
import re

from mmengine.config import Config

from backbones.errors import UserError

from ..compat.private_names import as_mapping

# settings whose strings are paths; those of data_prefix are below other names
PATH_KEYS = (
    'ann_file',
    'checkpoint',
    'data_prefix',
    'data_root',
    'load_from',
    'out_file_path',
    'outfile_prefix',
    'output_dir',
    'proposal_file',
    'work_dir',
)
CONTROL = re.compile(r'[\x00-\x1f]')


def expand_paths(cfg: Config) -> None:
    """Expand ``~`` and environment variables at the beginning of paths, in place.

    Args:
        cfg: Config of a run.

    Raises:
        UserError: If a path holds a control character, such as the tab in ``'C:\\tset'``, or if its variable is not
            set.
    """
    _expand_entries(as_mapping(cfg), '', is_path=False)


def expand_path(path: str, key: str = 'the path') -> str:
    """Expand ``~`` or an environment variable at the beginning of a path.

    Args:
        path: The path.
        key: Its key in the config, for the message.

    Raises:
        UserError: If the path holds a control character, or if its variable is not set.
    """
    if control := CONTROL.search(path):
        raise UserError(
            f'{key} is {path!r}, in which Python has read {control[0]!r} as one character: write / in place of '
            r"\, or r'...'"
        )
    if not path.startswith(('~', '$')):
        return path
    expanded = os.path.expandvars(os.path.expanduser(path))
    if expanded.startswith('$'):
        raise UserError(f'{key} is {path!r}, and this environment variable is not set: export it, or write the path')
    return expanded


def _expand_entries(section: object, key: str, is_path: bool) -> None:
    """Expand the paths in a part of a config.

    Args:
        section: A dict or a list of the config; other values have no entries.
        key: Its dotted key.
        is_path: Whether strings in it are paths.
    """
    if isinstance(section, dict):
        entries = list(section.items())
    elif isinstance(section, list):
        entries = list(enumerate(section))
    else:
        return
    for name, value in entries:
        full_key = f'{key}.{name}' if key else str(name)
        names_path = is_path or name in PATH_KEYS
        if isinstance(value, str) and names_path:
            section[name] = expand_path(value, full_key)
        else:
            _expand_entries(value, full_key, names_path)
