"""Optimizer wrappers that skip steps with gradients that are not finite; mixed precision where there is a GPU."""

from __future__ import annotations

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS


class NotFiniteError(RuntimeError):
    """Too many steps in a row had gradients that were not finite."""


@OPTIM_WRAPPERS.register_module()
class FiniteOptimWrapper(OptimWrapper):
    """mmengine's OptimWrapper, but a step with gradients that are not finite is skipped.

    All processes see the same averaged gradients, so they all decide the same.

    Args:
        *args: Arguments of mmengine's OptimWrapper.
        max_bad_steps: Number of such steps in a row that are skipped; the next one is an error. The default is 50
            with a dynamic loss scale, which finds its value through such steps, and 0 otherwise.
        **kwargs: Arguments of mmengine's OptimWrapper.
    """

    bad_steps = 0  # in a row, up to now

    def __init__(self, *args, max_bad_steps: int | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if max_bad_steps is None:
            max_bad_steps = 50 if self._is_scaled() else 0
        self.max_bad_steps = max_bad_steps

    def _is_scaled(self) -> bool:
        return isinstance(self, AmpOptimWrapper) and self.loss_scaler.is_enabled()

    @torch.compiler.disable  # a compiler of the whole training step cannot look into an optimizer
    def step(self, **kwargs) -> None:
        """Take the step if the gradients are finite.

        Raises:
            NotFiniteError: If they are not, and ``max_bad_steps`` steps in a row were skipped before.
        """
        gradients = [p.grad for group in self.optimizer.param_groups for p in group['params'] if p.grad is not None]
        if torch.nn.utils.get_total_norm(gradients, norm_type=float('inf')).isfinite():  # a sum of squares may overflow
            self.bad_steps = 0
            super().step(**kwargs)
            return
        self.bad_steps += 1
        if self.bad_steps > self.max_bad_steps:
            raise NotFiniteError
        if self._is_scaled():
            super().step(**kwargs)  # the scaler skips the step, too, and lowers the scale


@OPTIM_WRAPPERS.register_module()
class FiniteAmpOptimWrapper(FiniteOptimWrapper, AmpOptimWrapper):
    """mmengine's AmpOptimWrapper, but it gives up when too many steps in a row were skipped."""


@OPTIM_WRAPPERS.register_module(name='AmpOnCudaOptimWrapper')
def amp_on_cuda(loss_scale: float | str | dict = 'dynamic', dtype: str | None = None, **kwargs) -> FiniteOptimWrapper:
    """A :class:`FiniteAmpOptimWrapper` (fp16) on a GPU, and a :class:`FiniteOptimWrapper` (fp32) on a CPU.

    One config thus trains in fp16 on GPUs, as the paper did, and runs unchanged on a CPU, where mmengine's own AMP
    wrapper stops with an assertion.

    Args:
        loss_scale: The loss scale of mmengine's AmpOptimWrapper; it is not used in fp32 and bfloat16.
        dtype: ``'float16'``, which is the default, or ``'bfloat16'``; it is not used on a CPU.
        **kwargs: Arguments of :class:`FiniteOptimWrapper`: ``optimizer``, ``accumulative_counts``, ``clip_grad``,
            ``max_bad_steps``.
    """
    if not torch.cuda.is_available():
        return FiniteOptimWrapper(**kwargs)
    if dtype == 'bfloat16':
        loss_scale = dict(enabled=False)  # bfloat16 has the range of fp32
    return FiniteAmpOptimWrapper(loss_scale=loss_scale, dtype=dtype, **kwargs)
