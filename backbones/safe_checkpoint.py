"""Checkpoint files, read without running any code from them."""

from __future__ import annotations

import logging
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from mmengine.logging import HistoryBuffer, print_log
from torch import Tensor

from .errors import UserError
from .file_kinds import describe_folder, foreign_kind, is_safetensors
from .private_names import STATE_DICT_VERSIONS


class _Curve:
    """Stands in for mmengine's HistoryBuffer while a file is read."""


class _DType:
    """Stands in for numpy.dtype, for plain numbers only: object arrays hold addresses, and records pass for dicts."""

    def __init__(self, code: str, *flags: bool) -> None:
        if not re.fullmatch('[biuf][1248]', str(code)):
            raise pickle.UnpicklingError(f'numpy.dtype({code!r})')
        self.code = str(code)

    def __setstate__(self, state: tuple) -> None:
        self.code = {'|': '='}.get(state[1], state[1]) + self.code  # the byte order; other entries describe other types


class _Array:
    """Stands in for numpy.ndarray."""

    def __init__(self, *arguments: object) -> None:
        self.values = np.zeros(0)

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, fortran, data = state
        self.values = np.frombuffer(bytes(data), np.dtype(dtype.code)).reshape(shape, order='F' if fortran else 'C')


def _reconstruct(*arguments: object) -> _Array:
    return _Array()


def _scalar(dtype: _DType, data: bytes) -> float:
    return np.frombuffer(bytes(data), np.dtype(dtype.code))[0].item()


# Besides tensors and plain Python, a checkpoint of mmengine's Runner holds loss curves, and numpy numbers in these and
# in the best score. Classes and functions that only store values stand in for the real ones.
STAND_INS = [
    (_Curve, 'mmengine.logging.history_buffer.HistoryBuffer'),
    (lambda owner, name: None, 'builtins.getattr'),  # names the statistics of a curve
    (OrderedDict, 'yacs.config.CfgNode'),  # the settings in VMamba's checkpoints
    (OrderedDict, 'argparse.Namespace'),  # those in Vim's
    (_DType, 'numpy.dtype'),
    (_Array, 'numpy.ndarray'),
    *((_reconstruct, f'numpy.{core}.multiarray._reconstruct') for core in ('core', '_core')),
    *((_scalar, f'numpy.{core}.multiarray.scalar') for core in ('core', '_core')),
]
PLAIN = (str, bytes, bytearray, bool, int, float, complex, torch.Size, torch.dtype, torch.device)


def _plain(value: object) -> object:
    """Rebuild the content of a file from plain Python, tensors and loss curves.

    Raises:
        TypeError: If the file holds anything else.
    """
    if isinstance(value, dict):
        plain = OrderedDict if isinstance(value, OrderedDict) else dict
        content = plain((_plain(k), _plain(v)) for k, v in dict.items(value))  # the file may shadow value.items
        if isinstance(value, OrderedDict) and STATE_DICT_VERSIONS in vars(value):
            setattr(content, STATE_DICT_VERSIONS, _plain(vars(value)[STATE_DICT_VERSIONS]))
        return content
    if type(value) in (list, tuple, set):
        return type(value)(map(_plain, value))
    if isinstance(value, _Curve):
        log, count = (vars(value)[name].values.tolist() for name in ('_log_history', '_count_history'))
        return HistoryBuffer(log, count, vars(value)['max_length'])
    if isinstance(value, _Array):
        return value.values
    if value is None or isinstance(value, Tensor) or type(value) in PLAIN:
        return value
    raise TypeError(f'a value of type {type(value).__name__}')


_trusting = False


def trust_checkpoints() -> None:
    """Let all checkpoint files read from now on run their code, as the user asks with ``--trust-checkpoint``."""
    global _trusting
    _trusting = True
    print_log('CHECKPOINT FILES ARE TRUSTED: any code in them runs with your permissions', 'current', logging.WARNING)


def read_checkpoint(path: str | Path, map_location: str | torch.device | Callable | None = 'cpu') -> dict:
    """Read a local file of safetensors or of PyTorch; a file with code in it is refused and its code never runs.

    Args:
        path: The file. Its content tells its format, not its name.
        map_location: Device for the tensors of a file of PyTorch, or another ``map_location`` of :func:`torch.load`;
            tensors of a safetensors file are read to the CPU.

    Returns:
        The saved object: a state dict, or the dict in which mmengine's Runner wraps one.

    Raises:
        UserError: If the file is missing, is damaged, is of another kind, or holds more than tensors, plain Python and
            loss curves.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(describe_folder(path))
    if not path.is_file():
        raise UserError(f'checkpoint {path} does not exist')
    try:
        if is_safetensors(path):
            content = safetensors.torch.load_file(path)
        elif _trusting:
            content = torch.load(path, map_location=map_location, weights_only=False)
        else:
            with torch.serialization.safe_globals(STAND_INS):
                content = _plain(torch.load(path, map_location=map_location, weights_only=True))
    except OSError as error:
        raise UserError(f'checkpoint {path} cannot be read: {error.strerror or error}') from error
    except Exception as error:  # a damaged or hostile file may raise anything
        if kind := foreign_kind(path):
            raise UserError(f'checkpoint {path} is {kind}') from error
        if code := re.search(r'GLOBAL \S+|unrecognized function .+|numpy\.dtype\(.*|a value of type \w+', str(error)):
            raise UserError(
                f'checkpoint {path} was refused: besides weights it holds something that could run code [{code[0]}]; '
                "only tensors, plain Python and mmengine's loss curves are read. If you trust its source, train.py, "
                'test.py and predict.py run its code with --trust-checkpoint'
            ) from error
        raise UserError(
            f'checkpoint {path} ({path.stat().st_size:,} bytes) is damaged, cut off or not a checkpoint; copy or '
            f'download it again [{str(error).split(". ")[0].strip() or type(error).__name__}]'
        ) from error
    if not isinstance(content, dict):
        raise UserError(f'checkpoint {path} holds a {type(content).__name__} instead of named weights')
    return content
