"""Drop path, or stochastic depth (arXiv 1603.09382), which computes a branch only for the samples that keep it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.layers import drop_path
from torch import Tensor, nn


class DropPath(nn.Module):
    """A residual connection: ``x + branch(x)`` for samples that keep the branch, and ``x`` for the others.

    In training, each sample drops the branch with probability ``drop_prob``, independently of the others, and a kept
    branch is divided by ``1 - drop_prob``. This is the distribution of timm's ``DropPath``. Which samples keep the
    branch is drawn from the CPU's generator on all devices, so that a GPU need not be waited for. A compiled, traced or
    captured graph cannot depend on the number of kept samples; it computes all branches, as timm's does.

    Args:
        drop_prob: Probability that a sample drops the branch, from 0 to below 1.
        whole_batch: Whether the branch is computed for all samples, with a mask drawn on their device. It must be if
            the branch uses statistics of the batch.
    """

    def __init__(self, drop_prob: float, whole_batch: bool = False) -> None:
        super().__init__()
        self.drop_prob = drop_prob
        self.whole_batch = whole_batch

    def forward(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """Add a branch to its input.

        Args:
            x: Samples ``(B, ...)``.
            branch: Maps any number of samples, 0 included, to the same shape, each independently of the others unless
                ``whole_batch`` is set.

        Returns:
            The sums, ``(B, ...)``.
        """
        if self.drop_prob == 0 or not self.training:
            return x + branch(x)
        captured = x.is_cuda and torch.cuda.is_current_stream_capturing()
        if self.whole_batch or captured or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return x + drop_path(branch(x), self.drop_prob, training=True)
        keep_prob = 1 - self.drop_prob
        kept = [i for i, number in enumerate(torch.rand(len(x), device='cpu').tolist()) if number < keep_prob]
        if len(kept) == len(x):
            return torch.add(x, branch(x), alpha=1 / keep_prob)
        if not kept:  # the empty batch gives zero gradients to the branch's parameters; DDP waits for all gradients
            return torch.cat((x, branch(x[:0])))
        samples = list(x.split(1))
        batch = torch.cat([samples[i] for i in kept])
        batch = torch.add(batch, branch(batch), alpha=1 / keep_prob)
        for i, sample in zip(kept, batch.split(1), strict=True):
            samples[i] = sample
        return torch.cat(samples)

    def extra_repr(self) -> str:
        """The rate, for the description of a model."""
        return f'drop_prob={self.drop_prob:.3f}'
