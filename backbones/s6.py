"""S6, Mamba's selective state space (arXiv 2312.00752, section 3.2 and Algorithm 2), over sequences and over maps."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from .ops.scan_orders import Order, get_order
from .ops.selective_scan import MOST_ORDERS, check_implementation, choose, scan_lines, selective_scan


class S6(nn.Module):
    """A linear recurrence per channel, with step sizes, input weights and output weights computed from the sequence.

    Args:
        channels: Channels of the sequences ``(B, L, channels)``.
        state: Size ``N`` of the state of each channel.
        rank: Width of the bottleneck before the step sizes; ``None`` for a sixteenth of the channels, rounded up.
        implementation: Implementation of the scan, a key of :data:`backbones.ops.selective_scan.IMPLEMENTATIONS`.

    Raises:
        UserError: If the implementation is unknown.
    """

    def __init__(self, channels: int, state: int = 16, rank: int | None = None, implementation: str = 'auto') -> None:
        super().__init__()
        check_implementation(implementation)
        self.implementation = implementation
        self.sizes = [rank or math.ceil(channels / 16), state, state]  # widths of delta, B and C
        self.x_proj = nn.Linear(channels, sum(self.sizes), bias=False)
        self.dt_proj = nn.Linear(self.sizes[0], channels)
        self.A_log = nn.Parameter(torch.empty(channels, state))
        self.D = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as Mamba's authors do: step sizes from 0.001 to 0.1, ``A`` from -1 to -N, ``D`` with ones."""
        self.x_proj.reset_parameters()
        bound = self.dt_proj.in_features**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        with torch.no_grad():
            step = self.dt_proj.bias.uniform_(math.log(1e-3), math.log(1e-1)).exp()
            self.dt_proj.bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus
            self.A_log.copy_(torch.arange(1, self.A_log.shape[1] + 1, device=self.A_log.device).log())
            self.D.fill_(1)

    def forward(self, x: Tensor) -> Tensor:
        """Sequences ``(B, L, channels)`` to the same shape, in double precision for double inputs, else in single."""
        delta, b, c = self.x_proj(x).split(self.sizes, dim=-1)
        delta = F.linear(delta, self.dt_proj.weight)
        return selective_scan(x, delta, -self.A_log.exp(), b, c, self.D, self.dt_proj.bias, self.implementation)


class CausalConvS6(S6):
    """Mamba's mixer without projections and gate (arXiv 2312.00752, Figure 3): ``s6(silu(conv(x)))``.

    The convolution is depthwise and causal: a position sees itself and the 3 positions before it.

    Args:
        channels: Channels of the sequences ``(B, L, channels)``.
        state: Size ``N`` of the state of each channel.
        rank: Width of the bottleneck before the step sizes; ``None`` for a sixteenth of the channels, rounded up.
        implementation: Implementation of the scan, a key of :data:`backbones.ops.selective_scan.IMPLEMENTATIONS`.

    Raises:
        UserError: If the implementation is unknown.
    """

    def __init__(self, channels: int, state: int = 16, rank: int | None = None, implementation: str = 'auto') -> None:
        super().__init__(channels, state, rank, implementation)
        self.conv = nn.Conv1d(channels, channels, 4, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Sequences ``(B, L, channels)`` to the same shape, in double precision for double inputs, else in single."""
        padded = F.pad(x, (0, 0, self.conv.kernel_size[0] - 1, 0)).mT
        # conv2d over maps of one row reads this layout, in which channels are adjacent; conv1d would copy it
        y = F.conv2d(padded[:, :, None], self.conv.weight[:, :, None], self.conv.bias, groups=len(self.conv.weight))
        return super().forward(F.silu(y[:, :, 0].mT))


class MapS6(nn.ModuleList):
    """Several S6, each reading a map in its own scan order; their outputs are summed.

    Args:
        channels: Channels of the maps ``(B, H, W, channels)``.
        orders: Scan orders, or their names in :data:`backbones.ops.scan_orders.ORDERS`.
        state: Size ``N`` of the state of each channel.
        rank: Width of the bottleneck before the step sizes; ``None`` for a sixteenth of the channels, rounded up.
        implementation: Implementation of the scans, a key of :data:`backbones.ops.selective_scan.IMPLEMENTATIONS`.

    Raises:
        UserError: If an order or the implementation is unknown.
    """

    def __init__(
        self,
        channels: int,
        orders: Sequence[str | Order],
        state: int = 16,
        rank: int | None = None,
        implementation: str = 'auto',
    ) -> None:
        super().__init__(S6(channels, state, rank, implementation) for _ in orders)
        self.orders = [order if isinstance(order, Order) else get_order(order) for order in orders]

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, H, W, channels)`` to the same shape, in double precision for double inputs, else in single."""
        in_place = len(self) <= MOST_ORDERS and all(order.code is not None for order in self.orders)
        if in_place and choose(x, self[0].A_log, self[0].implementation) == 'triton':
            return self._scan_in_place(x)
        return functools.reduce(torch.add, self.scans(x))

    def scans(self, x: Tensor) -> Iterator[Tensor]:
        """Yield what is summed: the output of each S6, as a map like ``x``."""
        height, width = x.shape[1:3]
        for order, s6 in zip(self.orders, self, strict=True):
            yield order.restore(s6(order.read(x)), height, width)

    def _scan_in_place(self, x: Tensor) -> Tensor:
        """Scan in all orders at once, where the cells are, with one projection of the map.

        The parameters of the S6 are used without calling their modules, so hooks on these do not run.
        """
        (batch, height, width, channels), (rank, state, _) = x.shape, self[0].sizes
        weight = torch.stack([s6.x_proj.weight for s6 in self])
        if state % 16 == 0:  # zero rows in front, so that B and C begin at multiples of 16 values and load as vectors
            weight = F.pad(weight, (0, 0, -weight.shape[1] % 16, 0))
        projected = (
            F.linear(x, weight.flatten(0, 1)).view(batch, height * width, len(self), len(weight[0])).permute(2, 0, 1, 3)
        )
        _, delta, b, c = projected.split((weight.shape[1] - sum(self[0].sizes), rank, state, state), dim=-1)
        delta = torch.bmm(delta.flatten(1, 2), torch.stack([s6.dt_proj.weight for s6 in self]).mT)
        rates, skip, bias = (
            torch.stack(parameters)
            for parameters in zip(*((s6.A_log, s6.D, s6.dt_proj.bias) for s6 in self), strict=True)
        )
        delta = delta.view(len(self), batch, height * width, channels)
        y = scan_lines(x.flatten(1, 2), delta, -rates.exp(), b, c, skip, bias, width, self.orders)
        return y.sum(0).view(batch, height, width, channels)


def init_layers(module: nn.Module, layer_types: type | tuple[type, ...]) -> None:
    """Initialise layers of some types with weights of standard deviation 0.02 and zero biases, and each S6 as Mamba."""

    def init(layer: nn.Module) -> None:
        if isinstance(layer, S6):
            layer.reset_parameters()
        elif isinstance(layer, layer_types):
            trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    module.apply(init)  # an S6 comes after its own linear layers
