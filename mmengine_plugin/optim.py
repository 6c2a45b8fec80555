"""Mixed precision where it exists, and no step by gradients that are not finite."""

import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import cuda


class NotFiniteError(RuntimeError):
    """Too many steps in a row had gradients that were not finite."""


@OPTIM_WRAPPERS.register_module()
class FiniteOptimWrapper(OptimWrapper):
    """mmengine's OptimWrapper that takes no step by gradients that are not finite.

    All processes see the same averaged gradients, and so decide alike.

    Args:
        max_bad_steps: How many such steps in a row are left out; the next one is an error. Under a loss scale that
            adapts itself some are part of its work, so there it is 50, otherwise none.
    """

    bad_steps = 0

    def __init__(self, *args, max_bad_steps: int | None = None, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        scaled = isinstance(self, AmpOptimWrapper) and self.loss_scaler.is_enabled()
        self.max_bad_steps = (50 if scaled else 0) if max_bad_steps is None else max_bad_steps

    @torch.compiler.disable  # where the whole training step is compiled; it cannot look into an optimizer
    def step(self, **kwargs) -> None:
        """Take the step if the gradients are finite.

        Raises:
            NotFiniteError: If they are not, and as many steps as are allowed were left out before.
        """
        gradients = [p.grad for group in self.optimizer.param_groups for p in group['params'] if p.grad is not None]
        if torch.nn.utils.get_total_norm(gradients, norm_type=float('inf')).isfinite():  # squares might overflow
            self.bad_steps = 0
            super().step(**kwargs)
            return
        self.bad_steps += 1
        if self.bad_steps > self.max_bad_steps:
            raise NotFiniteError
        if isinstance(self, AmpOptimWrapper) and self.loss_scaler.is_enabled():
            super().step(**kwargs)  # leaves out the step, too, and lowers the scale


@OPTIM_WRAPPERS.register_module()
class FiniteAmpOptimWrapper(FiniteOptimWrapper, AmpOptimWrapper):
    """mmengine's AmpOptimWrapper that gives up when too many steps in a row were left out."""


@OPTIM_WRAPPERS.register_module(name='AmpOnCudaOptimWrapper')
def amp_on_cuda(loss_scale: float | str | dict = 'dynamic', dtype: str | None = None, **kwargs) -> FiniteOptimWrapper:
    """A :class:`FiniteAmpOptimWrapper` (fp16) where there is a GPU, a :class:`FiniteOptimWrapper` (fp32) elsewhere.

    One config thus trains as the paper did (fp16) on GPUs and runs unchanged on a CPU, where mmengine's own AMP
    wrapper stops with an assertion.

    Args:
        loss_scale: As in :class:`AmpOptimWrapper`; not used in fp32 and bfloat16.
        dtype: ``'float16'`` where ``None``, or ``'bfloat16'``; not used in fp32.
        **kwargs: As in :class:`FiniteOptimWrapper`: ``optimizer``, ``accumulative_counts``, ``clip_grad``,
            ``max_bad_steps``.
    """
    if cuda.is_available():
        if dtype == 'bfloat16':
            loss_scale = dict(enabled=False)  # its range is fp32's
        return FiniteAmpOptimWrapper(loss_scale=loss_scale, dtype=dtype, **kwargs)
    return FiniteOptimWrapper(**kwargs)
