"""Provenance: by what a result was made, as plain data that holds no secrets."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch
from mmengine.dist import all_gather_object, is_main_process

from .config_paths import ROOT

PACKAGES = 'torch torchvision timm mmengine mmcv mmcv-lite mmdet mmsegmentation numpy triton pycocotools'.split()
PACKAGES += ['faster-coco-eval', 'mambaout-dense']
# names of secrets; a token_mixer is none, and neither are num_tokens
NAME = r'[\w-]*(?:token|(?:passw|pwd|secret|(?:api|access|wandb)[-_]?key|authorization)[\w-]*)'
SECRET = re.compile(NAME, re.IGNORECASE)
OPTION = re.compile(rf'--?{NAME}', re.IGNORECASE)
ASSIGNED = re.compile(rf'((?:[\w-]*\.)*{NAME}=)(?!(?:True|False|None)$).*', re.IGNORECASE | re.DOTALL)
URL = re.compile(r'(?<=://)[^/\s\'"]+@')
BEARER = re.compile(r'(?<![\w-])(bearer\s+)[^\s\'",;)\]}]+', re.IGNORECASE)
QUOTED = re.compile(rf'([\'"])((?:[\w-]*\.)*{NAME}=)(?:(?!\1).)*\1', re.IGNORECASE)  # 'password=of two words'
VALUE = r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|(?:(?:basic|bearer|digest)\s+)?[^\s\'",;&)\]}]+'
NAMED = re.compile(
    rf'(?<![\w-])({NAME}[\'"]?\s*[=:]\s*|--?{NAME}\s+)(?!(?:True|False|None)\b|[\[({{])({VALUE})', re.IGNORECASE
)


def environment() -> dict[str, object]:
    """Describe the program, its code and the machine; if there are several processes, all must call this.

    Returns:
        ``date``, in UTC; ``command``; ``commit`` of the checkout, and whether it is ``dirty``; ``devices``, the number
        of processes on each kind of device; ``threads`` of this process; ``versions`` of what is installed. What cannot
        be found out is ``None``.
    """
    commit, dirty = git_state(ROOT) if is_main_process() else (None, None)
    return dict(
        date=datetime.now(UTC).isoformat(timespec='seconds'),
        command=without_home(shlex.join(['python', short_path(sys.argv[0]), *arguments_without_secrets(sys.argv[1:])])),
        commit=commit,
        dirty=dirty,
        devices=dict(Counter(all_gather_object(device_name()))),
        threads=torch.get_num_threads(),
        versions=versions(),
    )


def git_state(checkout: Path) -> tuple[str | None, bool | None]:
    """The commit of a checkout, and whether it has changes or files that are not committed and not ignored.

    Returns:
        Both; ``None`` for both if the folder is not the top of a checkout, or git is absent or fails.
    """

    def git(*arguments: str) -> str:
        # without the lock that "git status" takes to refresh its index, for which other programs would have to wait
        command, env = ['git', '-C', str(checkout), *arguments], os.environ | dict(GIT_OPTIONAL_LOCKS='0')
        return subprocess.run(
            command, capture_output=True, check=True, timeout=30, env=env, text=True, errors='replace'
        ).stdout.strip()

    try:
        if Path(git('rev-parse', '--show-toplevel')).resolve() != checkout.resolve():
            return None, None  # an installed package, in somebody's checkout
        return git('rev-parse', 'HEAD'), bool(git('status', '--porcelain'))
    except (OSError, subprocess.SubprocessError):
        return None, None


def device_name() -> str:
    """The name of this process's GPU, or of the CPU if there is none."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    info = Path('/proc/cpuinfo')
    cpu = re.search(r'^model name\s*: (.*)', info.read_text(errors='replace'), re.M) if info.is_file() else None
    return cpu[1] if cpu else platform.processor() or platform.machine()


def versions() -> dict[str, str | None]:
    """Versions of Python, of the packages that are installed, and of CUDA (``None`` in a build for CPUs)."""
    found: dict[str, str | None] = dict(python=platform.python_version(), cuda=torch.version.cuda)
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def has_commit(checkout: Path, commit: str) -> bool | None:
    """Whether a commit is in a checkout; ``None`` if that cannot be told, without git or the whole history."""
    if git_state(checkout)[0] is None:
        return None
    command = ['git', '-C', str(checkout)]
    shallow = subprocess.run([*command, 'rev-parse', '--is-shallow-repository'], capture_output=True, text=True)
    if shallow.stdout.strip() == 'true':
        return None
    return not subprocess.run([*command, 'cat-file', '-e', f'{commit}^{{commit}}'], capture_output=True).returncode


def without_home(text: str) -> str:
    """Replace the home folder, which names the user, by ``~``."""
    home = os.path.expanduser('~')
    return re.sub(rf'{re.escape(home)}(?=/|\b)', '~', text) if len(home) > 1 else text


def without_secrets(text: str) -> str:
    """Replace the home folder by ``~``, and what is known to be secret by dots.

    In the text of a config, strings alone are replaced, and the text stays one that Python can read.
    """
    text = without_home(text)
    try:
        statements = ast.parse(text).body
    except (SyntaxError, ValueError):
        statements = []
    if statements and all(isinstance(statement, ast.Assign) for statement in statements):
        return _settings_without_secrets(text)
    return _words_without_secrets(text)


def _words_without_secrets(text: str) -> str:
    """The same for any text but a config's."""

    def dots(match: re.Match) -> str:
        quote = match[2][0] if match[2][0] in '\'"' else ''
        return f'{match[1]}{quote}...{quote}'

    text = BEARER.sub(r'\1...', URL.sub('...@', text))
    return NAMED.sub(dots, QUOTED.sub(r'\1\2...\1', text))


def _settings_without_secrets(text: str) -> str:
    """The same for the text of a config."""
    secret: set[ast.AST] = set()
    strings: list[ast.Constant | ast.Name] = []
    for node in ast.walk(ast.parse(text)):
        pairs: list[tuple[object, ast.expr]] = []
        if isinstance(node, ast.Assign):
            pairs = [(getattr(node.targets[0], 'id', None), node.value)]
        elif isinstance(node, ast.Call):
            pairs = [(keyword.arg, keyword.value) for keyword in node.keywords]
        elif isinstance(node, ast.Dict):
            pairs = [(getattr(key, 'value', None), value) for key, value in zip(node.keys, node.values, strict=True)]
        secret |= {value for name, value in pairs if isinstance(name, str) and SECRET.fullmatch(name)}
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) or isinstance(node, ast.Name):
            strings.append(node)
    lines = [line.encode() for line in text.split('\n')]  # ast counts columns in bytes
    for node in sorted(strings, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        known = getattr(node, 'value', None)
        masked = '...' if node in secret else _words_without_secrets(known) if isinstance(known, str) else known
        if masked != known:
            first, last = node.lineno - 1, node.end_lineno - 1
            start, end = lines[first][: node.col_offset], lines[last][node.end_col_offset :]
            lines[first : last + 1] = [start + repr(masked).encode() + end]
    return b'\n'.join(lines).decode()


def arguments_without_secrets(arguments: Sequence[str]) -> list[str]:
    """Replace secrets among the arguments of a program, of which one may be the value of the one before, by dots."""
    found: list[str] = []
    for i, argument in enumerate(arguments):
        if i and OPTION.fullmatch(arguments[i - 1]):
            found.append('...')
        elif assigned := ASSIGNED.fullmatch(argument):
            found.append(f'{assigned[1]}...')
        else:
            found.append(_words_without_secrets(argument))
    return found


def short_path(path: str) -> str:
    """The path of a program or a config below the project; one that is elsewhere stays as it was typed."""
    place = Path(path).resolve()
    return place.relative_to(ROOT).as_posix() if place.is_relative_to(ROOT) else without_secrets(path)


def identity(path: Path) -> dict[str, object]:
    """By what a file can be recognised: its name, its SHA-256, and its size in bytes."""
    with path.open('rb') as file:
        digest = hashlib.file_digest(file, 'sha256')
    return dict(file=path.name, sha256=digest.hexdigest(), bytes=path.stat().st_size)


def identity_of_folder(path: Path) -> dict[str, object]:
    """By what a folder can be recognised: its name, a SHA-256 of all names and contents, and its size in bytes."""
    total, size = hashlib.sha256(), 0
    for file in sorted(p for p in path.rglob('*') if p.is_file()):
        found = identity(file)
        total.update(f'{found["sha256"]}  {file.relative_to(path).as_posix()}\n'.encode())
        size += found['bytes']
    return dict(file=path.name, sha256=total.hexdigest(), bytes=size)


def read_log(path: Path) -> list[dict]:
    """The lines of a ``scalars.json`` that can be read: a kill may have cut one off."""
    lines = []
    for line in path.read_text(errors='replace').splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return [line for line in lines if isinstance(line, dict)]


def training_of(meta: Mapping, folder: Path) -> dict[str, object]:
    """Sum up the training that led to a checkpoint.

    Args:
        meta: The checkpoint's ``meta``, as :class:`~mmengine_plugin.engine.starts_hook.StartsHook` completed it.
        folder: The folder of the checkpoint, beside which its logs are looked for.

    Returns:
        ``epochs`` and ``iterations``; ``hours``, from each start to the checkpoint or to the one from which the next
        start went on; ``peak_memory_bytes`` of one GPU, as logged (``None`` on a CPU); ``starts``; ``logs``, those that
        are there, each with its ``path`` below the folder.
    """
    starts = [start for start in meta.get('starts') or [] if {'log', 'seconds'} <= set(start)]
    paths = {start['log']: folder / start['log'] for start in starts}
    logs = [dict(path=name, **identity(path)) for name, path in paths.items() if path.is_file()]
    lines = [line for log in logs for line in read_log(folder / log['path'])]
    peaks = [line['memory'] for line in lines if 'memory' in line]  # MiB
    return dict(
        epochs=meta.get('epoch'),
        iterations=meta.get('iter'),
        hours=round(sum(start['seconds'] for start in starts) / 3600, 4) if starts else None,
        peak_memory_bytes=max(peaks) * 2**20 if peaks else None,
        starts=starts,
        logs=logs,
    )
