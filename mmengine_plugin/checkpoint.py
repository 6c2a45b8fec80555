"""Checkpoints: read without running code, loaded whole or not at all."""

import re

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader, Runner

from backbones.weights import read_checkpoint, refuse_mismatch

# mmengine reads local checkpoints with `weights_only=False`, which runs what a file brings along. Under the empty
# prefix its loader asks us for every path that is no URL: resume, load_from, test, init_cfg and the inferencers.
CheckpointLoader.register_scheme(prefixes='', loader=read_checkpoint, force=True)


@HOOKS.register_module()
class StrictLoadHook(Hook):
    """Refuse a checkpoint that does not fit the model, where mmengine would load what fits and warn.

    It keeps a test from scoring random weights because the checkpoint was of another size. To start a run from a
    checkpoint of another model on purpose, leave this hook out of ``custom_hooks``.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare names and shapes; raise :class:`backbones.UserError` with the first that differ."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        found = {re.sub(r'^module\.', '', k): v for k, v in checkpoint.get('state_dict', checkpoint).items()}
        refuse_mismatch(f'the checkpoint for {type(model).__name__}', model.state_dict(), found)
