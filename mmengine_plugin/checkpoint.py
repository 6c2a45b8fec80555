"""Checkpoints: read without running code, loaded whole or not at all."""

from collections.abc import Callable, Sequence

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner import checkpoint as upstream
from torch import device

from backbones.errors import UserError, did_you_mean
from backbones.weights import HUB, fetch, read_checkpoint, refuse_mismatch

Location = str | device | Callable | None


def load_from_file(filename: str, map_location: Location = None) -> dict:
    """A checkpoint, for whoever asks mmengine's loader: resume, load_from, test, init_cfg and the inferencers.

    mmengine's own readers run what a file brings along: they unpickle with ``weights_only=False``, and resuming and
    the inferencers evaluate the config's text that a checkpoint may hold, which is dropped here for that reason.

    Args:
        filename: A local file, a URL, or ``hf-hub:<repository>``.
        map_location: As in :func:`torch.load`.

    Raises:
        UserError: If the file cannot be had, is damaged, or holds code.
    """
    checkpoint = read_checkpoint(fetch(filename), map_location)
    hub = checkpoint.get('message_hub')
    for section in (checkpoint.get('meta'), hub.get('runtime_info') if isinstance(hub, dict) else None):
        if isinstance(section, dict):
            section.pop('config', None)
            section.pop('cfg', None)
    return checkpoint


def load_from_zoo(filename: str, map_location: Location = None) -> dict:
    """A checkpoint that mmengine knows by name, for example ``torchvision://resnet50``.

    Raises:
        UserError: If the name is unknown, and as :func:`load_from_file`.
    """
    zoo, name = filename.split('://', 1)
    if zoo in ('modelzoo', 'torchvision'):
        urls = upstream.get_torchvision_models()
    else:
        urls = upstream.get_mmcls_models() if zoo == 'mmcls' else upstream.get_external_models()
        name = upstream.get_deprecated_model_names().get(name, name)
    if name not in urls:
        raise UserError(f'{filename}: {zoo} has no weights of this name{did_you_mean(name, urls)}')
    checkpoint = load_from_file(urls[name], map_location)
    return upstream._process_mmcls_checkpoint(checkpoint) if zoo == 'mmcls' else checkpoint


def refuse(filename: str, map_location: Location = None) -> dict:
    """Answer a storage whose reader in mmengine would run the code in a file."""
    raise UserError(f'{filename}: this kind of address is not read; copy the file here and pass its path')


for prefixes, loader in (
    (('', 'http://', 'https://', HUB), load_from_file),
    (('modelzoo://', 'torchvision://', 'open-mmlab://', 'openmmlab://', 'mmcls://'), load_from_zoo),
    (('pavi://', r'(\S+\:)?s3://', r'(\S+\:)?petrel://'), refuse),
):
    CheckpointLoader.register_scheme(prefixes=prefixes, loader=loader, force=True)


@HOOKS.register_module()
class StrictLoadHook(Hook):
    """Refuse a checkpoint that does not fit the model, where mmengine would load what fits and warn.

    It keeps a test from scoring random weights because the checkpoint was of another size.

    Args:
        reinitialise: Beginnings of parameter names that may differ and then keep their initial values, when training
            starts from ``load_from``: for fine-tuning a detector on other classes,
            ``['roi_head.bbox_head.fc', 'roi_head.mask_head.conv_logits']``. Resuming knows no exceptions.
    """

    def __init__(self, reinitialise: Sequence[str] = ()) -> None:
        self.reinitialise = (reinitialise,) if isinstance(reinitialise, str) else tuple(reinitialise)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare names and shapes; raise :class:`backbones.UserError` with the first that differ."""
        model, state = runner.model, checkpoint.get('state_dict', checkpoint)
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        expected = model.state_dict()
        found = {name.removeprefix('module.'): value for name, value in state.items()}
        starts = () if runner._resume else self.reinitialise
        for start in starts:
            if not any(k.startswith(start) for k in expected):
                raise UserError(f'StrictLoadHook: no parameter of the model begins with {start!r}, of reinitialise')
        fresh = [
            k for k in expected if k.startswith(starts) and getattr(found.get(k), 'shape', None) != expected[k].shape
        ]
        for key in fresh:
            state.pop(key, None)
            found.pop(key, None)
            expected.pop(key)
        refuse_mismatch(runner._load_from or f'the checkpoint in {runner.work_dir}', expected, found)
        if fresh:
            runner.logger.warning(
                f'not in the checkpoint, or of another shape, and left as initialised: {", ".join(fresh)}'
            )
