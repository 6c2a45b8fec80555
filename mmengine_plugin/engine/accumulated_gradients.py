"""Gradients of a step that is not complete, with ``optim_wrapper.accumulative_counts``: a checkpoint keeps them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn


def _module(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def average_gradients(runner: Runner) -> None:
    """Average the gradients over the processes; only one of them saves a checkpoint.

    The average over the whole step remains the same. Every process must call this.
    """
    if get_world_size() == 1:
        return
    parameters = list(_module(runner).parameters())
    present = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int32)
    all_reduce(present, 'max')  # a process may not have used all parameters
    for parameter, somewhere in zip(parameters, present.tolist(), strict=True):
        if somewhere:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            all_reduce(parameter.grad, 'mean')


def get_gradients(runner: Runner) -> dict[str, Tensor]:
    """The gradients by the names of their parameters; empty between two steps, as these set all gradients to None."""
    named = _module(runner).named_parameters()
    return {name: parameter.grad.cpu() for name, parameter in named if parameter.grad is not None}


def set_gradients(runner: Runner, gradients: Mapping[str, Tensor]) -> None:
    """Restore the gradients of a checkpoint.

    Args:
        runner: The Runner.
        gradients: What :func:`get_gradients` returned.
    """
    parameters = dict(_module(runner).named_parameters())
    for name, gradient in gradients.items():
        parameters[name].grad = gradient.to(parameters[name])
