"""Published weights and our own checkpoints, read without running anything that a file brings along."""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import safetensors.torch
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from mmengine.logging import HistoryBuffer, print_log
from torch import Tensor, nn

from .errors import UserError

HUB = 'hf-hub:'
SHA256 = {  # of model.safetensors, where the hub's pages that were at hand show it
    'timm/mambaout_base.in1k@2b222e33224daef82dfc0ad7c140b3c5b441d021': (
        '19723a5235e3d68c7b46b49f5d1025a61df6ddc6d42d555e33c1fbe9f139769c'
    ),
    'timm/mambaout_small_rw.sw_e450_in1k': '893c9ba8676ca80a87293a120c8ab46c8d1a11b767c9acd24b02f4b7996e1e86',
}


class _Curve:
    """Stands in for mmengine's HistoryBuffer while a file is read."""


class _DType:
    """Stands in for numpy.dtype: of plain numbers only. Objects are addresses, and records pass for dicts."""

    def __init__(self, code: str, *flags: bool) -> None:
        if not re.fullmatch('[biuf][1248]', str(code)):
            raise pickle.UnpicklingError(f'numpy.dtype({code!r})')
        self.code = str(code)

    def __setstate__(self, state: tuple) -> None:
        self.code = {'|': '='}.get(state[1], state[1]) + self.code  # the byte order; the rest describes other types


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


# What a checkpoint of mmengine's Runner holds besides tensors and plain Python: its loss curves, and numpy's numbers in
# these and in the best score. Classes and functions that do nothing but take values stand in for the real ones.
STAND_INS = [
    (_Curve, 'mmengine.logging.history_buffer.HistoryBuffer'),
    (lambda owner, name: None, 'builtins.getattr'),  # a curve's statistics
    (OrderedDict, 'yacs.config.CfgNode'),  # the settings in VMamba's checkpoints
    (_DType, 'numpy.dtype'),
    (_Array, 'numpy.ndarray'),
    *((_reconstruct, f'numpy.{core}.multiarray._reconstruct') for core in ('core', '_core')),
    *((_scalar, f'numpy.{core}.multiarray.scalar') for core in ('core', '_core')),
]
PLAIN = (str, bytes, bytearray, bool, int, float, complex, torch.Size, torch.dtype, torch.device)


def _plain(value: object) -> object:
    """A file's content rebuilt from plain Python, tensors and loss curves, which is all that it may hold.

    Raises:
        TypeError: If it holds anything else.
    """
    if isinstance(value, dict):
        plain = OrderedDict if isinstance(value, OrderedDict) else dict
        content = plain((_plain(k), _plain(v)) for k, v in dict.items(value))  # not its own methods: it may shadow them
        if isinstance(value, OrderedDict) and '_metadata' in vars(value):
            content._metadata = _plain(vars(value)['_metadata'])  # of a state dict: the modules' versions
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
    """From now on, let checkpoint files run the code that they hold: ``--trust-checkpoint``, a user's explicit word."""
    global _trusting
    _trusting = True
    print_log(
        'CHECKPOINT FILES ARE TRUSTED: whatever code they hold will run with your rights', 'current', logging.WARNING
    )


def read_checkpoint(path: str | Path, map_location: str | torch.device | Callable | None = 'cpu') -> dict:
    """The content of a local ``.safetensors`` or ``.pth`` file; code in it is refused, never run.

    Args:
        path: The file.
        map_location: As in :func:`torch.load`; ``.safetensors`` are read to the CPU.

    Returns:
        What was saved: a state dict, or the dict of mmengine's Runner around one.

    Raises:
        UserError: If the file is missing, damaged, or holds more than tensors, plain Python and loss curves.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f'checkpoint {path} does not exist')
    try:
        if path.suffix == '.safetensors':
            content = safetensors.torch.load_file(path)
        elif _trusting:
            content = torch.load(path, map_location=map_location, weights_only=False)
        else:
            with torch.serialization.safe_globals(STAND_INS):
                content = _plain(torch.load(path, map_location=map_location, weights_only=True))
    except OSError as error:
        raise UserError(f'checkpoint {path} cannot be read: {error.strerror or error}') from error
    except Exception as error:  # whatever a damaged or hostile file makes of its reader
        if code := re.search(r'GLOBAL \S+|unrecognized function .+|numpy\.dtype\(.*|a value of type \w+', str(error)):
            raise UserError(
                f'checkpoint {path} was refused: besides weights it holds something that could run code [{code[0]}]; '
                'only tensors, plain Python and the loss curves of mmengine are read. If you know where the file comes '
                'from, train.py, test.py and predict.py run its code under --trust-checkpoint'
            ) from error
        raise UserError(
            f'checkpoint {path} ({path.stat().st_size:,} bytes) is damaged, cut off or no checkpoint at all; copy or '
            f'download it again [{str(error).split(". ")[0].strip() or type(error).__name__}]'
        ) from error
    if not isinstance(content, dict):
        raise UserError(f'checkpoint {path} holds a {type(content).__name__} instead of named weights')
    return content


def read_backbone(checkpoint: str, prefix: str = '') -> dict[str, Tensor]:
    """The weights of a backbone, under the names that the file has for them.

    Args:
        checkpoint: As in :func:`fetch`.
        prefix: Take only the keys below this one; ``'backbone'`` is found by itself.

    Raises:
        UserError: If the weights cannot be had or read, or if there are none below the prefix.
    """
    state = read_checkpoint(fetch(checkpoint))
    for key in ('state_dict', 'model'):
        if isinstance(state.get(key), dict):
            state = state[key]
    prefix = prefix and prefix.removesuffix('.') + '.'
    if not prefix and any(k.startswith('backbone.') for k in state):
        prefix = 'backbone.'  # a detector or segmentor
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not weights or not all(isinstance(v, Tensor) for v in weights.values()):
        raise UserError(f'{checkpoint} holds no named weights below {prefix!r}: {", ".join(list(state)[:5])}')
    if len(weights) < len(state):
        others = _families([k for k in state if not k.startswith(prefix)])
        print_log(f'{checkpoint}: {prefix}* is taken, and not used: {others}', logger='current')
    return weights


def load_pretrained(module: nn.Module, checkpoint: str, prefix: str = '') -> None:
    """Load a backbone's weights strictly, and say what was loaded and what was not.

    Left out on purpose: the classifier (``head.*``) of the published weights and what else the module says that it may
    be built without. Of the parts that the module says are unpublished, output norms for one, those keep their initial
    values of which the weights hold nothing at all.

    Args:
        module: A :class:`backbones.base.Backbone`: its ``rename`` maps published names to its own.
        checkpoint: ``hf-hub:<repository>``, a URL, or a local ``.pth`` or ``.safetensors`` file.
        prefix: As in :func:`read_backbone`.

    Raises:
        UserError: If the weights cannot be had or read, or if any other key is missing, unexpected or of another shape.
    """
    state = module.rename(read_backbone(checkpoint, prefix))
    own = module.state_dict()
    new = [part for part in module.unpublished if any(part in k for k in own) and not any(part in k for k in state)]
    dropped = [k for k in state if k not in own and k.startswith(module.unbuilt)]
    fitting = {k: v for k, v in state.items() if k not in set(dropped)}
    refuse_mismatch(checkpoint, {k: v for k, v in own.items() if not any(part in k for part in new)}, fitting)
    module.load_state_dict(fitting, strict=False)
    print_log(
        f'{type(module).__name__}: {len(fitting)} of {len(own)} tensors loaded from {checkpoint}; '
        f'initialised: {", ".join(f"{part}*" for part in new) or "nothing"}; not used: {_families(dropped)}',
        logger='current',
    )


def refuse_mismatch(source: str, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    """Raise a :class:`UserError` that names the keys by which two state dicts differ, if they do."""
    wrong = [
        *(f'missing {k}' for k in expected if k not in found),
        *(f'unexpected {k}' for k in found if k not in expected),
        *(
            f'{k} is {tuple(found[k].shape)} instead of {tuple(v.shape)}'
            for k, v in expected.items()
            if k in found and found[k].shape != v.shape
        ),
    ]
    if wrong:
        more = f' and {len(wrong) - 4} more' if len(wrong) > 4 else ''
        raise UserError(
            f'the weights in {source} do not fit the model: {"; ".join(wrong[:4])}{more}. '
            'Is this a checkpoint of another size, number of classes or architecture?'
        )


def _families(keys: list[str]) -> str:
    return ', '.join(dict.fromkeys(k.split('.')[0] + '.*' for k in keys)) or 'nothing'


def fetch(checkpoint: str) -> Path:
    """The local file behind ``checkpoint``, downloaded into the hub's or torch's cache if need be.

    Args:
        checkpoint: ``hf-hub:<repository>`` or ``hf-hub:<repository>@<revision>``, a URL, the path of a file, or that of
            a folder with a ``model.safetensors``.

    Raises:
        UserError: If it cannot be downloaded, with what to do instead; if its content is not what its hash says.
    """
    try:
        if checkpoint.startswith(HUB):
            repository, _, revision = checkpoint.removeprefix(HUB).partition('@')
            path = Path(hf_hub_download(repository, 'model.safetensors', revision=revision or None))
            if not revision:  # the folder of the hub's cache is named by it
                print_log(f'{checkpoint} is revision {path.parent.name} today: @{path.parent.name} pins it', 'current')
            blob = path.resolve().name  # the hub's cache names large files by their hash
            _verify(
                path, SHA256.get(checkpoint.removeprefix(HUB)) or (blob if re.fullmatch('[0-9a-f]{64}', blob) else '')
            )
            return path
        if urlparse(checkpoint).scheme in ('http', 'https'):
            name = Path(urlparse(checkpoint).path).name
            stated = re.search(r'-([0-9a-f]{8,64})\.\w+$', name)  # as torch's and OpenMMLab's files are named
            # files of one name at several places are common: model.safetensors
            place = '' if stated else hashlib.sha256(checkpoint.encode()).hexdigest()[:8]
            cached = Path(torch.hub.get_dir(), 'checkpoints', place, name)
            if not cached.is_file():
                cached.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(checkpoint, str(cached), stated and stated[1])
            _verify(cached, stated[1] if stated else '')
            return cached
    except HFValidationError as error:
        raise UserError(f'{checkpoint} names no repository of the hub; hf-hub:timm/mambaout_tiny.in1k does') from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, RuntimeError) as error:
        name = f'model.safetensors of {checkpoint.removeprefix(HUB)}' if checkpoint.startswith(HUB) else checkpoint
        raise UserError(
            f'cannot download the weights {checkpoint} [{type(error).__name__}]. Fetch {name} where there is a network '
            'and name the file instead; for a backbone, --cfg-options model.backbone.init_cfg.checkpoint=/path/to/file '
            'or, to train from scratch, model.backbone.init_cfg=None'
        ) from error
    path = Path(checkpoint).expanduser()
    return path / 'model.safetensors' if path.is_dir() else path


def _verify(path: Path, beginning: str) -> None:
    """Raise a :class:`UserError` if a file's SHA-256 does not begin so; where that is empty, none is known."""
    if not beginning:
        return
    with path.open('rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
    if not digest.startswith(beginning):
        raise UserError(
            f'{path.resolve()} is damaged or not the file that was asked for: its SHA-256 is {digest} and should begin '
            f'with {beginning}. Delete it and download it again'
        )
