"""Strict loading: a checkpoint fits the model in all names and shapes, or the run ends."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from backbones.errors import UserError
from backbones.weights import refuse_mismatch

from ..compat.private_names import checkpoint_of, is_resuming


@HOOKS.register_module()
class StrictLoadHook(Hook):
    """Refuse a checkpoint that does not fit the model; mmengine would load what fits and warn.

    This prevents a test from scoring random weights because the checkpoint belongs to another model.

    Args:
        reinitialise: Prefixes of parameter names. Where the checkpoint does not fit such a parameter, the parameter
            keeps its initial value. To fine-tune a detector on other classes, for example, set
            ``['roi_head.bbox_head.fc', 'roi_head.mask_head.conv_logits']``. It applies when training starts from
            ``load_from``; a resumed run must fit in all parameters.
    """

    def __init__(self, reinitialise: Sequence[str] = ()) -> None:
        self.reinitialise = (reinitialise,) if isinstance(reinitialise, str) else tuple(reinitialise)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare names and shapes.

        Raises:
            UserError: If some differ; the message names the first of them.
        """
        model, state = runner.model, checkpoint.get('state_dict', checkpoint)
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        expected = model.state_dict()
        found = {name.removeprefix('module.'): value for name, value in state.items()}
        starts = () if is_resuming(runner) else self.reinitialise
        for start in starts:
            if not any(k.startswith(start) for k in expected):
                raise UserError(
                    f'StrictLoadHook: no parameter of the model begins with {start!r}, which reinitialise names'
                )
        fresh = [
            k for k in expected if k.startswith(starts) and getattr(found.get(k), 'shape', None) != expected[k].shape
        ]
        for key in fresh:
            state.pop(key, None)
            found.pop(key, None)
            expected.pop(key)
        refuse_mismatch(checkpoint_of(runner) or f'the checkpoint in {runner.work_dir}', expected, found)
        if fresh:
            runner.logger.warning(
                f'not in the checkpoint, or of another shape, and left as initialised: {", ".join(fresh)}'
            )
