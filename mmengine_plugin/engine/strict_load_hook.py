"""Strict loading: a checkpoint must fit the model in all names and shapes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from backbones.errors import UserError
from backbones.state_dicts import unwrapped, weights_of
from backbones.weights import has_other_shape, mismatches, refuse_mismatch

from ..compat.private_names import checkpoint_of, is_resuming


@HOOKS.register_module()
class StrictLoadHook(Hook):
    """Refuse a checkpoint that does not fit the model; mmengine would load what fits and warn.

    This prevents a test from scoring random weights because the checkpoint belongs to another model. Old names of
    parameters are accepted if mmdet, mmseg, mmcv or PyTorch rename them while they load.

    Args:
        reinitialise: Prefixes of parameter names. If the checkpoint lacks such a parameter or has another shape for it,
            the parameter keeps its initial value. To fine-tune a detector on other classes, for example, set
            ``['roi_head.bbox_head.fc', 'roi_head.mask_head.conv_logits']``. It applies when training starts from
            ``load_from``; a resumed run must fit in all parameters.
        strict: Whether to refuse a checkpoint that does not fit. If False, one warning lists all differences, and the
            parameters that fit are loaded. It applies to training, resuming and testing.
    """

    priority = 'ABOVE_NORMAL'  # before EMAHook, which loads a second set of weights without such a check

    def __init__(self, reinitialise: Sequence[str] = (), strict: bool = True) -> None:
        self.reinitialise = (reinitialise,) if isinstance(reinitialise, str) else tuple(reinitialise)
        self.strict = strict

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Find the weights in the checkpoint, and compare names and shapes, before mmengine loads them.

        Raises:
            UserError: If some differ and ``strict`` is True; the message names the first of them. Also if
                ``reinitialise`` names no parameter.
        """
        model, source = runner.model, checkpoint_of(runner) or f'the checkpoint in {runner.work_dir}'
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        try:
            state = unwrapped(weights_of(checkpoint), model.state_dict())
            checkpoint['state_dict'] = state  # mmengine reads no other key
            expected, found = names_in_model(model, state)
        except RuntimeError as error:  # a module has its own reason to reject its weights
            if self.strict:
                reason = ' '.join(str(error).split())
                raise UserError(f'the weights in {source} do not fit the model: {reason}') from error
            return  # mmengine logs the reason and loads the rest
        prefixes = () if is_resuming(runner) else self.reinitialise
        for prefix in prefixes:
            if not any(key.startswith(prefix) for key in expected):
                raise UserError(
                    f'StrictLoadHook: no parameter of the model begins with {prefix!r}, which reinitialise names'
                )
        fresh = [
            key
            for key, value in expected.items()
            if key.startswith(prefixes) and (key not in found or has_other_shape(found[key], value))
        ]
        for key in fresh:
            expected.pop(key)
            found.pop(key, None)
        if self.strict:
            refuse_mismatch(source, expected, found)
        elif wrong := mismatches(expected, found):
            runner.logger.warning(
                f'the weights in {source} do not fit the model in {len(wrong)} names or shapes. '
                f'StrictLoadHook(strict=False) loads the others: {"; ".join(wrong)}'
            )
            for key, value in expected.items():  # EMAHook would fail at another shape when it resumes its average
                if key in found and has_other_shape(found[key], value):
                    checkpoint.get('ema_state_dict', {}).pop(f'module.{key}', None)
        if fresh:
            runner.logger.warning(
                f'not in the checkpoint, or of another shape, and left as initialised: {", ".join(fresh)}'
            )


def names_in_model(model: nn.Module, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    """Find the names that the tensors of a checkpoint have when they reach the parameters of a model.

    Modules of mmdet, mmcv and PyTorch rename old names while they load. This function lets them do so on a copy of
    ``state``, and copies no tensor into the model.

    Args:
        model: The model, without wrappers.
        state: Its weights in the checkpoint, without what wrappers of the model put into their names.

    Returns:
        ``(expected, found)``: the tensors that the model needs, and those of the checkpoint, both by their names in the
        model. Other names of the checkpoint have the value None in ``found``.

    Raises:
        RuntimeError: If a module rejects its weights for a reason of its own.
    """
    state = copy.copy(state)  # keeps the versions of modules, on which the renaming of old names depends
    expected, found = model.state_dict(), {}

    def take_own(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
        """Take the tensors of one module out of ``state``, so that they are not loaded; its children come later."""
        for key in list(state):
            if key in expected and key.startswith(prefix) and '.' not in key.removeprefix(prefix):
                found[key] = state.pop(key)

    handles = [module.register_load_state_dict_pre_hook(take_own) for module in model.modules()]
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    finally:
        for handle in handles:
            handle.remove()
    # a module may do without some tensors: a convolution with weight standardisation computes its statistics
    needed = found.keys() | missing
    return {k: v for k, v in expected.items() if k in needed}, found | dict.fromkeys(unexpected)
