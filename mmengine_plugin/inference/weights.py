"""Weights for whole models: all of them, or an error that says what does not fit."""

from __future__ import annotations

from mmengine.runner import CheckpointLoader
from torch import nn

from backbones.state_dicts import unwrapped, weights_of
from backbones.weights import refuse_mismatch

from ..engine.strict_load_hook import names_in_model


def load_weights(model: nn.Module, checkpoint: str) -> dict:
    """Load all weights of a model from a checkpoint.

    Args:
        model: The model, on any device.
        checkpoint: A local file, a URL, or ``hf-hub:<repository>``.

    Returns:
        The content of the checkpoint.

    Raises:
        UserError: If the checkpoint cannot be read, or does not fit the model.
    """
    content = CheckpointLoader.load_checkpoint(checkpoint, 'cpu')
    state = unwrapped(weights_of(content), model.state_dict())
    refuse_mismatch(checkpoint, *names_in_model(model, state))
    model.load_state_dict(state, strict=False)
    return content
