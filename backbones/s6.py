"""S6, Mamba's selective state space (arXiv 2312.00752, section 3.2 and Algorithm 2), over sequences and over maps."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from .ops.scan_orders import get_order
from .ops.selective_scan import check_form, selective_scan


class S6(nn.Module):
    """A linear recurrence per channel whose step, input and output weights follow the sequence itself.

    Args:
        channels: Of the sequences ``(B, L, channels)``, in and out.
        state: Numbers ``N`` that each channel remembers.
        rank: Width of the bottleneck before the step sizes; one 16th of the channels by default, rounded up.
        form: How the scan is computed, one of :data:`backbones.ops.selective_scan.FORMS`.

    Raises:
        UserError: If there is no such form.
    """

    def __init__(self, channels: int, state: int = 16, rank: int | None = None, form: str = 'auto') -> None:
        super().__init__()
        check_form(form)
        self.form = form
        self.sizes = [rank or math.ceil(channels / 16), state, state]
        self.x_proj = nn.Linear(channels, sum(self.sizes), bias=False)
        self.dt_proj = nn.Linear(self.sizes[0], channels)
        self.A_log = nn.Parameter(torch.empty(channels, state))
        self.D = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights as Mamba's authors do: step sizes between 0.001 and 0.1, ``A`` of -1 to -N, ``D`` of 1."""
        self.x_proj.reset_parameters()
        bound = self.dt_proj.in_features**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        with torch.no_grad():
            step = self.dt_proj.bias.uniform_(math.log(1e-3), math.log(1e-1)).exp()
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus makes it step again
            self.A_log.copy_(torch.arange(1, self.A_log.shape[1] + 1, device=self.A_log.device).log())
            self.D.fill_(1)

    def forward(self, x: Tensor) -> Tensor:
        """Sequences ``(B, L, channels)`` to the same shape, in single precision (double, if they are)."""
        delta, b, c = self.x_proj(x).split(self.sizes, dim=-1)
        delta = F.linear(delta, self.dt_proj.weight)
        return selective_scan(x, delta, -self.A_log.exp(), b, c, self.D, self.dt_proj.bias, self.form)


class MapS6(nn.ModuleList):
    """One S6 for each of several orders in which a map is read; what they make of it is summed.

    Args:
        channels: Of the maps ``(B, H, W, channels)``, in and out.
        orders: Names of :data:`backbones.ops.scan_orders.ORDERS`.
        state, rank, form: As in :class:`S6`.

    Raises:
        UserError: For an order that does not exist.
    """

    def __init__(
        self, channels: int, orders: Sequence[str], state: int = 16, rank: int | None = None, form: str = 'auto'
    ) -> None:
        super().__init__(S6(channels, state, rank, form) for _ in orders)
        self.orders = [get_order(name) for name in orders]

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, H, W, channels)`` to the same shape, in single precision (double, if they are)."""
        height, width = x.shape[1:3]
        maps = (order.restore(s6(order.read(x)), height, width) for order, s6 in zip(self.orders, self, strict=True))
        return functools.reduce(torch.add, maps)


def draw_weights(part: nn.Module, kinds: type | tuple[type, ...]) -> None:
    """Draw layers of some kinds from a normal distribution of 0.02, with biases of 0, and each S6 in its own way."""

    def draw(module: nn.Module) -> None:
        if isinstance(module, S6):
            module.reset_parameters()
        elif isinstance(module, kinds):
            trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    part.apply(draw)  # which comes to an S6 after its layers
