"""The conditions under which figures are measured."""

from __future__ import annotations

import datetime
import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from tools.doctor import versions

from .measuring import CUDA, DTYPE

ROOT = Path(__file__).resolve().parents[1]


def conditions(*packages: str) -> dict[str, object]:
    """Say how figures were measured.

    Args:
        packages: Names of packages whose versions matter besides those that this project requires.

    Returns:
        ``command``, as typed in the checkout; ``date``; ``device``, the name of the CPU; ``versions`` of the packages
        that are installed.
    """
    info = Path('/proc/cpuinfo')
    cpu = re.search(r'^model name\s*: (.*)', info.read_text(), re.M) if info.is_file() else None
    return dict(
        command=shlex.join(['python', os.path.relpath(sys.argv[0], ROOT), *sys.argv[1:]]),
        date=datetime.date.today().isoformat(),
        device=cpu[1] if cpu else platform.processor() or platform.machine(),
        versions={name: version for name, version in versions(*packages).items() if version},
    )


def device_conditions(*packages: str) -> dict[str, object]:
    """What :func:`conditions` says, with the name of the GPU if there is one, ``threads`` and ``dtype``."""
    found = conditions(*packages)
    if CUDA:
        found['device'] = torch.cuda.get_device_name()
    return found | dict(threads=torch.get_num_threads(), dtype=str(DTYPE).removeprefix('torch.'))


def summary(found: Mapping[str, object]) -> str:
    """The command, the device and the date in Markdown, from the result of :func:`device_conditions`."""
    return f'`{found["command"]}` on {found["device"]}, {found["threads"]} threads, {found["dtype"]}, {found["date"]}'
