"""Optimizer wrappers that take no step by a loss or gradients that are not finite; mixed precision on GPUs and CPUs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.device import get_device
from mmengine.dist import all_reduce
from mmengine.optim import AmpOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner
from torch import nn
from torch.amp import GradScaler
from torch.distributed.tensor import DTensor

from backbones.errors import UserError

from ..compat.private_names import found_inf

DTYPES = dict(float16=torch.float16, bfloat16=torch.bfloat16)  # of autocast


class NotFiniteError(RuntimeError):
    """Too many steps in a row had gradients that were not finite.

    Args:
        max_bad_steps: Number of such steps that were skipped before.
    """

    def __init__(self, max_bad_steps: int) -> None:
        super().__init__(max_bad_steps)
        self.max_bad_steps = max_bad_steps


class NotFiniteLossError(RuntimeError):
    """Too many steps in a row had a loss that was not finite, but finite gradients."""


def optimizer_wrappers(runner: Runner) -> list[OptimWrapper]:
    """The optimizer wrappers of a run: one, or those of several optimizers."""
    wrapper = runner.optim_wrapper
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


@OPTIM_WRAPPERS.register_module()
class FiniteOptimWrapper(OptimWrapper):
    """mmengine's OptimWrapper, but a step with gradients that are not finite is skipped.

    All processes see the same averaged gradients, so they all decide the same. A step is taken if the loss is not
    finite and its gradients are, such as those of a mean over no pixels; such steps are counted by each process.

    Args:
        *args: Arguments of mmengine's OptimWrapper.
        max_bad_steps: Number of steps in a row that are skipped; the next one is an error. As many steps in a row may
            have a loss that is not finite.
        **kwargs: Arguments of mmengine's OptimWrapper.
    """

    bad_steps = 0  # steps in a row, up to now, with gradients that are not finite
    bad_losses = 0  # the same with a loss that is not finite, but finite gradients
    loss_sum: torch.Tensor | float = 0.0  # of the losses since the last step; finite if they are

    def __init__(self, *args, max_bad_steps: int = 0, **kwargs) -> None:
        OptimWrapper.__init__(self, *args, **kwargs)  # not AmpOptimWrapper's, which comes next in the class below
        self.max_bad_steps = max_bad_steps

    def update_params(self, loss: torch.Tensor, *args, **kwargs) -> None:
        """Compute the gradients of a loss, and take the step if it is due.

        Args:
            loss: The loss.
            *args: Further arguments of mmengine's OptimWrapper.
            **kwargs: Further arguments of mmengine's OptimWrapper.

        Raises:
            NotFiniteError: See :meth:`step`.
            NotFiniteLossError: See :meth:`step`.
        """
        self.loss_sum = self.loss_sum + loss.detach().float()  # without waiting for the GPU
        super().update_params(loss, *args, **kwargs)

    def are_gradients_finite(self) -> bool:
        """Whether all gradients are finite.

        This waits for the GPU, as the step would do anyway a moment later, when mmengine logs the losses.
        """
        gradients = [p.grad for group in self.optimizer.param_groups for p in group['params'] if p.grad is not None]
        own = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
        own = [part for part in own if part.numel()]  # a process may have no part of a small parameter
        norm = torch.nn.utils.get_total_norm(own, norm_type=float('inf'))  # a sum of squares may overflow
        if not any(isinstance(gradient, DTensor) for gradient in gradients):
            return bool(norm.isfinite())
        bad = 1 - norm.isfinite().int()
        all_reduce(bad, 'max')
        return not bad

    @torch.compiler.disable  # a compiler of the whole training step cannot look into an optimizer
    def step(self, **kwargs) -> None:
        """Take the step if the gradients are finite.

        Raises:
            NotFiniteError: If they are not, and ``max_bad_steps`` steps in a row were skipped before.
            NotFiniteLossError: If they are, but not the loss, as in ``max_bad_steps`` steps in a row before.
        """
        loss_sum, self.loss_sum = self.loss_sum, 0.0
        if not self.are_gradients_finite():
            self.bad_steps += 1
            if self.bad_steps > self.max_bad_steps:
                raise NotFiniteError(self.max_bad_steps)
            return
        self.bad_steps = 0
        self.bad_losses = 0 if math.isfinite(loss_sum) else self.bad_losses + 1
        if self.bad_losses > self.max_bad_steps:
            raise NotFiniteLossError
        OptimWrapper.step(self, **kwargs)  # whatever the loss: the other processes take it, too


@OPTIM_WRAPPERS.register_module()
class FiniteAmpOptimWrapper(FiniteOptimWrapper, AmpOptimWrapper):
    """mmengine's AmpOptimWrapper, but it gives up when too many steps in a row were skipped, and works on CPUs, too.

    Args:
        *args: Arguments of mmengine's OptimWrapper.
        loss_scale: ``'dynamic'``, a fixed scale, or a dict of arguments of :class:`torch.amp.GradScaler`. bfloat16 has
            the range of fp32 and is not scaled.
        dtype: ``'float16'`` or ``'bfloat16'``.
        max_bad_steps: Number of steps in a row that are skipped because of gradients that are not finite; the next one
            is an error. As many steps in a row may have a loss that is not finite. The default is 50 with a loss scale,
            which finds its value through such steps, and 0 otherwise.
        **kwargs: Arguments of mmengine's OptimWrapper.

    Raises:
        UserError: If ``dtype`` is neither of the two.
    """

    def __init__(
        self,
        *args,
        loss_scale: float | str | dict = 'dynamic',
        dtype: str | None = 'float16',
        max_bad_steps: int | None = None,
        **kwargs,
    ) -> None:
        dtype = dtype or 'float16'
        if dtype not in DTYPES:
            raise UserError(f'optim_wrapper.dtype={dtype!r} must be one of {", ".join(DTYPES)}')
        super().__init__(*args, **kwargs)
        self.cast_dtype = DTYPES[dtype]
        self.fixed_scale = float(loss_scale) if isinstance(loss_scale, int | float) else None
        settings = dict(loss_scale) if isinstance(loss_scale, dict) else {}
        if self.fixed_scale:
            settings = dict(init_scale=self.fixed_scale)
        self.loss_scaler = GradScaler(get_device(), **dict(enabled=dtype == 'float16') | settings)
        if max_bad_steps is None:
            max_bad_steps = 50 if self.loss_scaler.is_enabled() else 0
        self.max_bad_steps = max_bad_steps

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run a forward pass in mixed precision; while gradients are accumulated, do not average them."""
        with OptimWrapper.optim_context(self, model), torch.autocast(get_device(), self.cast_dtype):
            yield

    def are_gradients_finite(self) -> bool:
        """Whether all gradients are finite. With a loss scale, they are unscaled first."""
        if not self.loss_scaler.is_enabled():
            return super().are_gradients_finite()
        self.loss_scaler.unscale_(self.optimizer)
        return not found_inf(self.loss_scaler, self.optimizer)

    @torch.compiler.disable
    def step(self, **kwargs) -> None:
        """Take the step if the gradients are finite, and adapt the loss scale.

        Raises:
            NotFiniteError: If they are not, and ``max_bad_steps`` steps in a row were skipped before.
            NotFiniteLossError: If they are, but not the loss, as in ``max_bad_steps`` steps in a row before.
        """
        super().step(**kwargs)
        self.loss_scaler.update(self.fixed_scale)


@OPTIM_WRAPPERS.register_module(name='AmpOnCudaOptimWrapper')
def amp_on_cuda(loss_scale: float | str | dict = 'dynamic', dtype: str | None = None, **kwargs) -> FiniteOptimWrapper:
    """A :class:`FiniteAmpOptimWrapper` on a GPU, and a :class:`FiniteOptimWrapper` (fp32) on a CPU.

    One config thus trains in fp16 on GPUs, as the paper did, and in fp32 on a CPU, where fp16 is slow.

    Args:
        loss_scale: The loss scale of :class:`FiniteAmpOptimWrapper`; it is not used on a CPU.
        dtype: ``'float16'``, which is the default, or ``'bfloat16'``; it is not used on a CPU.
        **kwargs: Arguments of :class:`FiniteOptimWrapper`: ``optimizer``, ``accumulative_counts``, ``clip_grad``,
            ``max_bad_steps``.
    """
    if not torch.cuda.is_available():
        return FiniteOptimWrapper(**kwargs)
    return FiniteAmpOptimWrapper(loss_scale=loss_scale, dtype=dtype, **kwargs)
