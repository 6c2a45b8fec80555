"""The readers behind mmengine's CheckpointLoader: they run no code that a checkpoint brings along."""

from __future__ import annotations

from collections.abc import Callable

import torch
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as zoo_models

from backbones.errors import UserError, did_you_mean
from backbones.safe_checkpoint import read_checkpoint
from backbones.weights import HUB, fetch

from .private_names import rename_mmcls_weights

Location = str | torch.device | Callable | None


def load_from_file(filename: str, map_location: Location = None) -> dict:
    """Read a checkpoint. mmengine's resume, load_from, test, init_cfg and inferencers all come here.

    mmengine's own readers run code that a file brings along: they unpickle with ``weights_only=False``, and resuming
    and the inferencers evaluate the config's text that a checkpoint may hold. Here, that text is dropped.

    Args:
        filename: A local file, a URL, or ``hf-hub:<repository>``.
        map_location: Where :func:`torch.load` puts the tensors.

    Returns:
        The content of the checkpoint.

    Raises:
        UserError: If the file cannot be fetched, is damaged, or holds code.
    """
    checkpoint = read_checkpoint(fetch(filename), map_location)
    hub = checkpoint.get('message_hub')
    for section in (checkpoint.get('meta'), hub.get('runtime_info') if isinstance(hub, dict) else None):
        if isinstance(section, dict):
            section.pop('config', None)
            section.pop('cfg', None)
    return checkpoint


def load_from_zoo(filename: str, map_location: Location = None) -> dict:
    """Read a checkpoint that mmengine knows by name, for example ``torchvision://resnet50``.

    Raises:
        UserError: If the name is unknown, or if the file cannot be fetched, is damaged, or holds code.
    """
    zoo, name = filename.split('://', 1)
    if zoo in ('modelzoo', 'torchvision'):
        urls = zoo_models.get_torchvision_models()
    else:
        urls = zoo_models.get_mmcls_models() if zoo == 'mmcls' else zoo_models.get_external_models()
        name = zoo_models.get_deprecated_model_names().get(name, name)
    if name not in urls:
        raise UserError(f'{filename}: {zoo} has no weights of this name{did_you_mean(name, urls)}')
    checkpoint = load_from_file(urls[name], map_location)
    return rename_mmcls_weights(checkpoint) if zoo == 'mmcls' else checkpoint


def refuse(filename: str, map_location: Location = None) -> dict:
    """Refuse an address for which mmengine has only a reader that runs the code in a file."""
    raise UserError(f'{filename}: this kind of address is not read; copy the file here and pass its path')


for prefixes, loader in (
    (('', 'http://', 'https://', HUB), load_from_file),
    (('modelzoo://', 'torchvision://', 'open-mmlab://', 'openmmlab://', 'mmcls://'), load_from_zoo),
    (('pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://'), refuse),
):
    CheckpointLoader.register_scheme(prefixes=prefixes, loader=loader, force=True)
