"""Gradients of a step that is not complete, with ``optim_wrapper.accumulative_counts``: a checkpoint keeps them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from .optimizer_wrappers import optimizer_wrappers
from .sharding import ShardedDataParallel, own_part


def _module(runner: Runner) -> nn.Module:
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def average_gradients(runner: Runner) -> None:
    """Average the gradients over the processes; only one of them saves a checkpoint.

    The average over the whole step remains the same. Every process must call this.
    """
    if get_world_size() == 1 or isinstance(runner.model, ShardedDataParallel):  # whose gradients are averages
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
    if isinstance(runner.model, ShardedDataParallel):
        return runner.model.gradients
    named = _module(runner).named_parameters()
    return {name: parameter.grad.cpu() for name, parameter in named if parameter.grad is not None}


def loss_scales(runner: Runner) -> list[float]:
    """The factor by which the gradients of each optimizer are scaled: 1 without a loss scale."""
    scalers = (getattr(wrapper, 'loss_scaler', None) for wrapper in optimizer_wrappers(runner))
    return [scaler.get_scale() if scaler else 1.0 for scaler in scalers]


def set_gradients(runner: Runner, gradients: Mapping[str, Tensor], scales: Sequence[float]) -> None:
    """Restore the gradients of a checkpoint.

    Args:
        runner: The Runner.
        gradients: What :func:`get_gradients` returned.
        scales: What :func:`loss_scales` returned.
    """
    parameters = dict(_module(runner).named_parameters())
    for name, gradient in gradients.items():
        parameters[name].grad = own_part(gradient, parameters[name])
    for wrapper, before, now in zip(optimizer_wrappers(runner), scales, loss_scales(runner), strict=True):
        for group in wrapper.optimizer.param_groups:
            for parameter in group['params']:
                if parameter.grad is not None and now != before:
                    parameter.grad *= now / before
