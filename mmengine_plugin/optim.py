"""Mixed precision where it exists."""

from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from torch import cuda


@OPTIM_WRAPPERS.register_module(name='AmpOnCudaOptimWrapper')
def amp_on_cuda(loss_scale: float | str | dict = 'dynamic', dtype: str | None = None, **kwargs) -> OptimWrapper:
    """An :class:`AmpOptimWrapper` (fp16) where there is a GPU, a plain :class:`OptimWrapper` (fp32) elsewhere.

    One config thus trains as the paper did (fp16) on GPUs and runs unchanged on a CPU, where mmengine's own AMP
    wrapper stops with an assertion.

    Args:
        loss_scale: As in :class:`AmpOptimWrapper`; not used in fp32.
        dtype: ``'float16'`` where ``None``, or ``'bfloat16'``; not used in fp32.
        **kwargs: As in :class:`OptimWrapper`: ``optimizer``, ``accumulative_counts``, ``clip_grad``.
    """
    if cuda.is_available():
        return AmpOptimWrapper(loss_scale=loss_scale, dtype=dtype, **kwargs)
    return OptimWrapper(**kwargs)
