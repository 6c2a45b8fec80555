"""Variables that a config file sets and that nothing reads."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import logging
import re
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner import Runner

from .cfg_options import RUNNER_KEYS


@dataclasses.dataclass(frozen=True)
class ConfigFile:
    """A config file, or one of its bases.

    Args:
        path: The file.
        assigned: Names that it assigns at the top level.
        read: Names that it reads anywhere.
    """

    path: str
    assigned: tuple[str, ...]
    read: frozenset[str]

    @property
    def unread(self) -> list[str]:
        """Names that the file assigns and does not read.

        The list is empty for a whole config without bases, perhaps one that mmengine wrote with the variables of its
        bases: nothing in it can be meant for a base.
        """
        if '_base_' not in self.assigned and {'optim_wrapper', 'train_dataloader'} & set(self.assigned):
            return []
        return [name for name in dict.fromkeys(self.assigned) if name not in self.read and name[0] != '_']

    @property
    def is_upstream(self) -> bool:
        """Whether the file is one of mmdet's or mmseg's, installed or in a checkout, which users do not edit."""
        checkouts = [folder.parent for folder in Path(self.path).absolute().parents if folder.name == 'configs']
        in_checkout = any((folder / name).is_dir() for folder in checkouts for name in ('mmdet', 'mmseg'))
        return '/.mim/configs/' in self.path or in_checkout


def config_files(cfg: Config) -> list[ConfigFile]:
    """List the Python files from which a config was read. Files in YAML or JSON have no variables.

    A name counts as read if its own file reads it, or if any file reads it from its base, as in ``_base_.data_root``.

    Args:
        cfg: The config.
    """
    from_base = frozenset(re.findall(r'_base_\.(\w+)', cfg.text))
    files = []
    for path, text in _texts(cfg.text):
        try:
            tree = ast.parse(text)
        except SyntaxError:
            continue
        assigned = tuple(
            target.id
            for statement in tree.body
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            if isinstance(target, ast.Name)
        )
        names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
        read = frozenset(node.id for node in names if isinstance(node.ctx, ast.Load))
        files.append(ConfigFile(path, assigned, read | from_base))
    return files


def _texts(text: str) -> list[tuple[str, str]]:
    """Split the text of a config and its bases, which mmengine joins: a line with its path stands before each."""
    texts: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.endswith(('.py', '.yaml', '.yml', '.json')) and Path(line).is_file():
            texts.append((line, []))
        elif texts:
            texts[-1][1].append(line)
    return [(path, '\n'.join(lines)) for path, lines in texts]


def warn_of_unread_variables(cfg: Config) -> None:
    """Log a warning if a config sets a variable of its base, which has used its own value already.

    An example is ``data_root`` in a config that inherits all data loaders.

    Args:
        cfg: The config.
    """
    files = config_files(cfg)
    settings = {*inspect.signature(Runner).parameters, *RUNNER_KEYS}
    for file in files:
        if file.is_upstream:
            continue
        in_others = {name for other in files if other is not file for name in other.assigned}
        names = [name for name in file.unread if name in in_others and name not in settings]
        if names:
            print_log(
                f'NOTHING READS {", ".join(names)} IN {file.path}: a base has used its own value of such a variable '
                'already. Set what was made of it, for example train_dataloader=dict(dataset=dict(pipeline='
                'train_pipeline))',
                'current',
                logging.WARNING,
            )
