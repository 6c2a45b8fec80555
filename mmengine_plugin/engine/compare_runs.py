"""The state at the end of a run, to compare two runs bit by bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from mmengine.logging import HistoryBuffer

from backbones.safe_checkpoint import read_checkpoint

from .checkpoint_files import last_checkpoint

# of a checkpoint; the second is there if the weights are averaged, and then holds those that are trained
PARTS = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')


def end_state(work_dir: Path) -> dict[str, object]:
    """Read the state that a run ended in from its last checkpoint.

    Args:
        work_dir: The work directory of the run.

    Returns:
        Weights, optimizer state, schedules, and all logged values except times and memory, by their dotted names.
    """
    checkpoint = read_checkpoint(last_checkpoint(work_dir))
    logged = checkpoint['message_hub']['log_scalars']
    curves = {name: curve for name, curve in logged.items() if not name.endswith(('time', 'memory'))}
    return dict(_leaves({key: checkpoint[key] for key in PARTS if key in checkpoint} | dict(logged=curves)))


def differences(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """Names of the values that one of two states lacks, or that differ in any bit."""
    return [name for name in one | other if name not in one or name not in other or not _equal(one[name], other[name])]


def _equal(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return torch.equal(a, b)
    return a == b


def _leaves(value: object, name: str = '') -> Iterator[tuple[str, object]]:
    """Yield the values of nested dicts and lists, and the points of logged curves, with their dotted names."""
    if isinstance(value, HistoryBuffer):
        value = value.data[0].tolist()
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        yield name, value
        return
    for key, part in items:
        yield from _leaves(part, f'{name}.{key}' if name else str(key))
