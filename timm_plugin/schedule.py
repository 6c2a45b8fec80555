"""timm's schedule of the learning rate."""

from __future__ import annotations

import math

from mmengine.registry import PARAM_SCHEDULERS
from torch.optim import Optimizer

from backbones.errors import UserError
from mmengine_plugin.compat.private_names import ClosedFormScheduler


@PARAM_SCHEDULERS.register_module()
class TimmCosineLR(ClosedFormScheduler):
    """timm's cosine with linear warm-up and cool-down, which changes once an epoch.

    With ``n = end - cooldown`` epochs, and ``lr`` as the highest learning rate of a group of parameters, which is the
    optimizer's unless a multiplier is above 1, epoch t from 0 has the learning rate

    - ``warmup_lr + t * (lr - warmup_lr) / warmup`` if ``t < warmup``,
    - ``min_lr + 0.5 * (lr - min_lr) * (1 + cos(pi * t / n))`` if ``warmup <= t < n``,
    - ``min_lr`` from n on.

    The cosine is counted from epoch 0, so ``lr`` itself is not reached. Where layers have learning rates of their own,
    all of them are scaled alike, as by timm's ``lr_scale``.

    Args:
        optimizer: The optimizer or its wrapper.
        end: Number of epochs in all.
        warmup: Number of epochs of warm-up.
        cooldown: Number of epochs at ``min_lr``.
        warmup_lr: Learning rate of the first epoch.
        min_lr: Learning rate at the end.
        last_step: Number of epochs that were trained already, less 1.
        verbose: Whether to print each learning rate.

    Raises:
        UserError: If a number of epochs is none, or if warm-up and cool-down leave no epoch for the cosine.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        end: int,
        warmup: int = 0,
        cooldown: int = 0,
        warmup_lr: float = 0.0,
        min_lr: float = 0.0,
        last_step: int = -1,
        verbose: bool = False,
    ) -> None:
        numbers = dict(end=end, warmup=warmup, cooldown=cooldown)
        if wrong := [name for name, value in numbers.items() if type(value) is not int or value < 0]:
            listed = ', '.join(f'{name}={numbers[name]!r}' for name in wrong)
            raise UserError(f'param_scheduler: TimmCosineLR has {listed}: set a number of epochs, from 0')
        if warmup >= end - cooldown:
            raise UserError(
                f'param_scheduler: TimmCosineLR has end={end} epochs, but warmup={warmup} and cooldown={cooldown} '
                'leave none of them for the cosine: lower these two, too'
            )
        self.warmup, self.cooldown, self.warmup_lr, self.min_lr = warmup, cooldown, warmup_lr, min_lr
        super().__init__(optimizer, 'lr', 0, end, last_step, True, verbose)

    def values(self) -> list[float]:
        """Learning rates of all groups of parameters in the present epoch."""
        highest = max(self.base_values)
        value = self.value_at(self.last_step, highest)
        return [value if base == highest else value * (base / highest) for base in self.base_values]

    def value_at(self, epoch: int, lr: float) -> float:
        """The learning rate of an epoch, counted from 0, for a base learning rate ``lr``."""
        epochs = self.end - self.cooldown
        if epoch < self.warmup:
            return self.warmup_lr + epoch * ((lr - self.warmup_lr) / self.warmup)
        if epoch < epochs:
            return self.min_lr + 0.5 * (lr - self.min_lr) * (1 + math.cos(math.pi * epoch / epochs))
        return self.min_lr
