"""Checkpoints: read without running code, loaded whole or not at all."""

from collections.abc import Callable, Sequence

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader, Runner
from torch import device

from backbones.weights import HUB, fetch, read_checkpoint, refuse_mismatch


def load(filename: str, map_location: str | device | Callable | None = None) -> dict:
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
    for text in ('config', 'cfg'):
        checkpoint.get('meta', {}).pop(text, None)
    return checkpoint


CheckpointLoader.register_scheme(prefixes=('', 'http://', 'https://', HUB), loader=load, force=True)


@HOOKS.register_module()
class StrictLoadHook(Hook):
    """Refuse a checkpoint that does not fit the model, where mmengine would load what fits and warn.

    It keeps a test from scoring random weights because the checkpoint was of another size.

    Args:
        reinitialise: Beginnings of parameter names that may differ and then keep their initial values: for fine-tuning
            a detector on other classes, ``['roi_head.bbox_head.fc', 'roi_head.mask_head.conv_logits']``.
    """

    def __init__(self, reinitialise: Sequence[str] = ()) -> None:
        self.reinitialise = tuple(reinitialise)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare names and shapes; raise :class:`backbones.UserError` with the first that differ."""
        model, state = runner.model, checkpoint.get('state_dict', checkpoint)
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        expected = model.state_dict()
        found = {name.removeprefix('module.'): value for name, value in state.items()}
        fresh = [
            k
            for k in expected
            if k.startswith(self.reinitialise) and getattr(found.get(k), 'shape', None) != expected[k].shape
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
