"""Weights of backbones: fetching them, loading them, and refusing those that do not fit."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlparse

import torch
from filelock import FileLock
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from mmengine.logging import print_log
from timm.models import adapt_input_conv
from torch import Tensor, nn

from .errors import UserError
from .safe_checkpoint import read_checkpoint
from .state_dicts import unwrapped, weights_of

HUB = 'hf-hub:'
BACKBONE = 'backbone.'  # what names of a backbone begin with in a detector or segmentor
OPTIONS = (  # what to type after the message that weights are not there
    'for a backbone, --cfg-options model.backbone.init_cfg.checkpoint=/path/to/file or, to train from random weights, '
    'model.backbone.init_cfg=None'
)
RGB = 3  # channels of the images of the published weights
SHA256 = {  # of model.safetensors, for repositories with a known hash
    'timm/mambaout_base.in1k@2b222e33224daef82dfc0ad7c140b3c5b441d021': (
        '19723a5235e3d68c7b46b49f5d1025a61df6ddc6d42d555e33c1fbe9f139769c'
    ),
    'timm/mambaout_small_rw.sw_e450_in1k': '893c9ba8676ca80a87293a120c8ab46c8d1a11b767c9acd24b02f4b7996e1e86',
}


def read_backbone(checkpoint: str, prefix: str = '') -> dict[str, Tensor]:
    """Read the weights of a backbone, under the names in the file.

    Args:
        checkpoint: ``hf-hub:<repository>`` or ``hf-hub:<repository>@<revision>``, a URL, a local ``.pth`` or
            ``.safetensors`` file, or a folder with a ``model.safetensors``.
        prefix: Prefix of the backbone's keys, which is removed. By default it is ``'backbone'`` if any key starts with
            that, as in a detector or segmentor, and empty otherwise.

    Raises:
        UserError: If the weights cannot be downloaded or read, or if no key has the prefix.
    """
    state = unwrapped(weights_of(read_checkpoint(fetch(checkpoint))))
    prefix = prefix and prefix.removesuffix('.') + '.'
    if not prefix and any(k.startswith(BACKBONE) for k in state):
        prefix = BACKBONE
    weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not weights or not all(isinstance(v, Tensor) for v in weights.values()):
        raise UserError(f'{checkpoint} holds no named weights below {prefix!r}: {", ".join(list(state)[:5])}')
    if len(weights) < len(state):
        others = _families([k for k in state if not k.startswith(prefix)])
        print_log(f'{checkpoint}: {prefix}* is loaded; not used: {others}', logger='current')
    return weights


def load_pretrained(module: nn.Module, checkpoint: str, prefix: str = '') -> None:
    """Load a backbone's weights strictly, and log which were loaded and which were not.

    Two kinds of differences are allowed. ``allowed_unexpected_keys`` of the backbone are prefixes of names that it may
    lack, such as those of the classifier, ``'head.'``. ``allowed_missing_keys`` are substrings of names that the
    weights may lack, such as ``'out_norms.'``: if no name in them has it, these parameters keep their initial values.
    The first convolution is adapted to the number of channels of the images (:func:`adapt_channels`).

    Args:
        module: A :class:`backbones.base.Backbone`; its ``convert_state_dict`` converts published weights.
        checkpoint: ``hf-hub:<repository>`` or ``hf-hub:<repository>@<revision>``, a URL, a local ``.pth`` or
            ``.safetensors`` file, or a folder with a ``model.safetensors``.
        prefix: Prefix of the backbone's keys in the file; ``'backbone'`` is found automatically.

    Raises:
        UserError: If the weights cannot be downloaded or read, or if any other key is missing or unexpected or has
            another shape.
    """
    own = module.state_dict()
    state = adapt_channels(module, module.convert_state_dict(read_backbone(checkpoint, prefix)))
    missing = [
        key for key in module.allowed_missing_keys if any(key in k for k in own) and not any(key in k for k in state)
    ]
    unexpected = [k for k in state if k not in own and k.startswith(module.allowed_unexpected_keys)]
    expected = {k: v for k, v in own.items() if not any(key in k for key in missing)}
    fitting = {k: v for k, v in state.items() if k in own or not k.startswith(module.allowed_unexpected_keys)}
    refuse_mismatch(checkpoint, expected, fitting)
    module.load_state_dict(fitting, strict=False)
    print_log(
        f'{type(module).__name__}: {len(fitting)} of {len(own)} tensors loaded from {checkpoint}; '
        f'initialised: {", ".join(f"{key}*" for key in missing) or "nothing"}; not used: {_families(unexpected)}',
        logger='current',
    )


def adapt_channels(module: nn.Module, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Adapt weights for RGB images to a backbone for images of another number of channels, and log that.

    Only the first convolution changes, by timm's rule: for one channel, its weights are summed over R, G and B. For N
    channels, they are repeated in the order R, G, B, R, ... and scaled by 3 / N, so that the sum over grey images stays
    about the same. Weights for other than 3 channels stay as they are.

    Args:
        module: The backbone.
        state: The weights under its names.
    """
    name = next((name for name, part in module.named_modules() if isinstance(part, nn.Conv2d)), None)
    own, weight = module.state_dict().get(f'{name}.weight'), state.get(f'{name}.weight')
    if own is None or not isinstance(weight, Tensor) or weight.ndim != 4 or weight.shape[1] != RGB:
        return state
    channels = own.shape[1]
    if channels == RGB or (weight.shape[0], *weight.shape[2:]) != (own.shape[0], *own.shape[2:]):
        return state
    print_log(
        f'{name}.weight is adapted from {RGB} to {channels} channels: it is '
        + ('summed over them' if channels == 1 else f'repeated and scaled by {RGB}/{channels}'),
        'current',
    )
    return {**state, f'{name}.weight': adapt_input_conv(channels, weight)}


def refuse_mismatch(source: str, expected: Mapping[str, Tensor], found: Mapping[str, object]) -> None:
    """Raise a :class:`UserError` that names the first keys in which two state dicts differ, if they differ.

    Args:
        source: The file with the weights, for the message.
        expected: The state dict of the model.
        found: The weights in the file.
    """
    wrong = mismatches(expected, found)
    if wrong and _is_backbone_alone(expected, found):
        raise UserError(
            f'the weights in {source} are those of a backbone alone: to train from them, set '
            f"model.backbone.init_cfg=dict(type='Pretrained', checkpoint={str(source)!r}), and remove load_from"
        )
    if wrong:
        more = f' and {len(wrong) - 4} more' if len(wrong) > 4 else ''
        raise UserError(
            f'the weights in {source} do not fit the model: {"; ".join(wrong[:4])}{more}. '
            'Is this a checkpoint of another size, number of classes or architecture?'
        )


def _is_backbone_alone(expected: Mapping[str, Tensor], found: Mapping[str, object]) -> bool:
    """Whether most names in a file are those of a model's backbone, without ``backbone.`` before them."""
    own = {key.removeprefix(BACKBONE) for key in expected if key.startswith(BACKBONE)}
    return len(own & found.keys()) > len(found) / 2


def mismatches(expected: Mapping[str, Tensor], found: Mapping[str, object]) -> list[str]:
    """List the keys in which the weights of a file differ from a model's, such as ``'missing stem.conv1.weight'``."""
    return [
        *(f'missing {k}' for k in expected if k not in found),
        *(f'unexpected {k}' for k in found if k not in expected),
        *(
            f'{k} is {_shape(found[k])} instead of {_shape(v)}'
            for k, v in expected.items()
            if k in found and has_other_shape(found[k], v)
        ),
    ]


def has_other_shape(value: object, expected: object) -> bool:
    """Whether a value of a file cannot replace that of a model, since it has another shape or is not a tensor."""
    return _shape(value) != _shape(expected)


def _shape(value: object) -> tuple[int, ...] | str:
    """The shape of a tensor, in words for another value of a state dict."""
    return tuple(value.shape) if isinstance(value, Tensor) else 'not a tensor'


def _families(keys: list[str]) -> str:
    """The first parts of some keys, such as ``'head.*, norm.*'``."""
    return ', '.join(dict.fromkeys(k.split('.')[0] + '.*' for k in keys)) or 'nothing'


def fetch(checkpoint: str) -> Path:
    """Return the local file of a checkpoint, after downloading it into the hub's or torch's cache if necessary.

    Args:
        checkpoint: ``hf-hub:<repository>`` or ``hf-hub:<repository>@<revision>``, a URL, a local file, or a folder with
            a ``model.safetensors``.

    Raises:
        UserError: If the download fails (the message says what to do instead), or if the file does not have its hash.
    """
    try:
        if checkpoint.startswith(HUB):
            repository, _, revision = checkpoint.removeprefix(HUB).partition('@')
            path = Path(hf_hub_download(repository, 'model.safetensors', revision=revision or None))
            if not revision:  # its folder in the hub's cache is named after the revision
                print_log(
                    f'{checkpoint} is revision {path.parent.name} today; append @{path.parent.name} to pin it',
                    'current',
                )
            blob = path.resolve().name  # the hub's cache names large files after their hash
            expected = SHA256.get(checkpoint.removeprefix(HUB)) or (blob if re.fullmatch('[0-9a-f]{64}', blob) else '')
            _verify(path, expected)
            return path
        if urlparse(checkpoint).scheme in ('http', 'https'):
            name = Path(urlparse(checkpoint).path).name
            stated = re.search(r'-([0-9a-f]{8,64})\.\w+$', name)  # torch and OpenMMLab put the hash into the name
            # other names, such as model.safetensors, are common to many URLs, so each URL gets a folder of its own
            folder = '' if stated else hashlib.sha256(checkpoint.encode()).hexdigest()[:8]
            cached = Path(torch.hub.get_dir(), 'checkpoints', folder, name)
            if not cached.is_file():
                cached.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(f'{cached}.lock'):  # one process downloads it, and the others wait
                    if not cached.is_file():
                        torch.hub.download_url_to_file(checkpoint, str(cached), stated and stated[1])
            _verify(cached, stated[1] if stated else '')
            return cached
    except HFValidationError as error:
        raise UserError(
            f'{checkpoint} is not a valid name of a repository of the hub, such as hf-hub:timm/mambaout_tiny.in1k'
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, RuntimeError) as error:
        name = f'model.safetensors of {checkpoint.removeprefix(HUB)}' if checkpoint.startswith(HUB) else checkpoint
        raise UserError(
            f'cannot download the weights {checkpoint} [{type(error).__name__}]. Download {name} on a machine with a '
            f'network and name the file instead: {OPTIONS}'
        ) from error
    path = Path(checkpoint).expanduser()
    if not path.exists():
        raise UserError(f'the weights {path} do not exist (seen from {Path.cwd()}). Name the file: {OPTIONS}')
    return path / 'model.safetensors' if (path / 'model.safetensors').is_file() else path


def _verify(path: Path, expected: str) -> None:
    """Raise a :class:`UserError` unless a file's SHA-256 starts with ``expected``; an empty one is not checked."""
    if not expected:
        return
    with path.open('rb') as file:
        digest = hashlib.file_digest(file, 'sha256').hexdigest()
    if not digest.startswith(expected):
        raise UserError(
            f'{path.resolve()} is damaged or not the requested file: its SHA-256 is {digest} and should begin with '
            f'{expected}. Delete it and download it again'
        )
