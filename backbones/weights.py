"""Published weights and our own checkpoints, read without running anything that a file brings along."""

from __future__ import annotations

import hashlib
import logging
import pickle
import re
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
    'timm/mambaout_base.in1k': '19723a5235e3d68c7b46b49f5d1025a61df6ddc6d42d555e33c1fbe9f139769c',
    'timm/mambaout_small_rw.sw_e450_in1k': '893c9ba8676ca80a87293a120c8ab46c8d1a11b767c9acd24b02f4b7996e1e86',
}


def _statistic(owner: type, name: str) -> Callable:
    """The only attributes for which a checkpoint of mmengine needs ``getattr``: HistoryBuffer's own statistics."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r})')
    return getattr(owner, name)


# What a checkpoint of mmengine's Runner holds besides tensors and plain Python: its loss curves.
SAFE_TYPES = [
    HistoryBuffer,
    (_statistic, 'builtins.getattr'),
    np.ndarray,
    np.dtype,
    *(getattr(np.dtypes, f'{name}DType') for name in ('Bool', 'Int32', 'Int64', 'Float32', 'Float64')),
    *((getattr(np._core.multiarray, name), f'numpy.{core}.multiarray.{name}')
      for name in ('_reconstruct', 'scalar') for core in ('core', '_core')),
]  # fmt: skip


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
        map_location: As in :func:`torch.load`.

    Returns:
        What was saved: a state dict, or the dict of mmengine's Runner around one.

    Raises:
        UserError: If the file is missing, damaged, or holds other types than ``SAFE_TYPES`` lists.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f'checkpoint {path} does not exist')
    try:
        if path.suffix == '.safetensors':
            return safetensors.torch.load_file(path)
        with torch.serialization.safe_globals(SAFE_TYPES):
            content = torch.load(path, map_location=map_location, weights_only=not _trusting)
    except OSError as error:
        raise UserError(f'checkpoint {path} cannot be read: {error.strerror or error}') from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, safetensors.SafetensorError) as error:
        if code := re.search(r'(?<=Unsupported global: GLOBAL )\S+|getattr\(.*', str(error)):
            raise UserError(
                f'checkpoint {path} was refused: besides weights it holds something that could run code [{code[0]}]; '
                'only tensors, plain Python and the loss curves of mmengine are read. If you know where the file comes '
                'from, train.py and test.py run its code under --trust-checkpoint'
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
        state = state.get(key, state)
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

    Left out on purpose: the classifier (``head.*``) of the published weights where the module has none, stages that it
    was built without, and, where the weights hold none, the output norms, which keep their initial values.

    Args:
        module: A backbone with a ``rename(state_dict)`` that maps published names to its own.
        checkpoint: ``hf-hub:<repository>``, a URL, or a local ``.pth`` or ``.safetensors`` file.
        prefix: As in :func:`read_backbone`.

    Raises:
        UserError: If the weights cannot be had or read, or if any other key is missing, unexpected or of another shape.
    """
    state = module.rename(read_backbone(checkpoint, prefix))
    own = module.state_dict()
    new = [k for k in own if k.startswith('out_norms.') and k not in state]
    unbuilt = tuple(f'stages.{i}.' for i in range(len(module.stages), 10))
    dropped = [k for k in state if k not in own and k.startswith(('head.', *unbuilt))]
    fitting = {k: v for k, v in state.items() if k not in set(dropped)}
    refuse_mismatch(checkpoint, {k: v for k, v in own.items() if k not in set(new)}, fitting)
    module.load_state_dict(fitting, strict=False)
    print_log(
        f'{type(module).__name__}: {len(fitting)} of {len(own)} tensors loaded from {checkpoint}; '
        f'initialised: {_families(new)}; not used: {_families(dropped)}',
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
        checkpoint: ``hf-hub:<repository>`` or ``hf-hub:<repository>@<revision>``, a URL, or a path.

    Raises:
        UserError: If it cannot be downloaded, with what to do instead; if its content is not what its hash says.
    """
    try:
        if checkpoint.startswith(HUB):
            repository, _, revision = checkpoint.removeprefix(HUB).partition('@')
            path = Path(hf_hub_download(repository, 'model.safetensors', revision=revision or None))
            blob = path.resolve().name  # the hub's cache names large files by their hash
            _verify(path, SHA256.get(repository) or (blob if re.fullmatch('[0-9a-f]{64}', blob) else ''))
            return path
        if urlparse(checkpoint).scheme in ('http', 'https'):
            # files of one name at several places are common: model.safetensors
            place = hashlib.sha256(checkpoint.encode()).hexdigest()[:8]
            cached = Path(torch.hub.get_dir(), 'checkpoints', place, Path(urlparse(checkpoint).path).name)
            if not cached.is_file():
                cached.parent.mkdir(parents=True, exist_ok=True)
                torch.hub.download_url_to_file(checkpoint, str(cached))
            stated = re.search(r'-([0-9a-f]{8,64})\.\w+$', cached.name)  # as torch's and OpenMMLab's files are named
            _verify(cached, stated[1] if stated else '')
            return cached
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        name = f'model.safetensors of {checkpoint.removeprefix(HUB)}' if checkpoint.startswith(HUB) else checkpoint
        raise UserError(
            f'cannot download the weights {checkpoint} [{type(error).__name__}]. Fetch {name} where there is a network '
            'and pass it: --cfg-options model.backbone.init_cfg.checkpoint=/path/to/file; '
            'or train from scratch: --cfg-options model.backbone.init_cfg=None'
        ) from error
    return Path(checkpoint)


def _verify(path: Path, beginning: str) -> None:
    """Raise a :class:`UserError` if a downloaded file's SHA-256 does not begin so."""
    with path.open('rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest() if beginning else ''
    if not digest.startswith(beginning):
        raise UserError(
            f'{path.resolve()} is damaged or not the file that was asked for: its SHA-256 is {digest} and should begin '
            f'with {beginning}. Delete it and download it again'
        )
