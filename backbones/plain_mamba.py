"""PlainMamba: a Mamba of one width that scans along snakes through neighbouring cells (arXiv 2403.17695)."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import torch
from mmengine.registry import MODELS
from timm.layers import trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from .base import STRIDES, IsotropicBackbone, NHWCConv, drop_path_rates, get_arch
from .drop_path import DropPath
from .errors import UserError
from .ops.scan_orders import Snake, get_order
from .ops.selective_scan import selective_scan
from .s6 import S6, init_layers
from .state_dicts import renamed


@dataclasses.dataclass(frozen=True)
class Arch:
    """One size of PlainMamba.

    Args:
        dim: Channels.
        depth: Number of blocks.
        stem_convs: Number of 3x3 convolutions between the first one and the patches.
        first_conv: Whether a depthwise 3x3 convolution follows the first block.
    """

    dim: int
    depth: int
    stem_convs: int = 2
    first_conv: bool = False

    def __post_init__(self) -> None:
        if min(self.dim, self.depth) < 1 or self.stem_convs < 0:
            raise UserError(
                f'arch: dim={self.dim} and depth={self.depth} must be at least 1, and stem_convs={self.stem_convs} at '
                'least 0'
            )


# official repository, mmcls/plain_mamba_dev/models/plain_mamba/plain_mamba.py
ARCHS = dict(l1=Arch(192, 24, stem_convs=1, first_conv=True), l2=Arch(384, 24), l3=Arch(448, 36))
ORDERS = ('snake_rows', 'snake_rows_reversed', 'snake_columns', 'snake_columns_reversed')  # paper, section 3.2
DIRECTIONS = 5  # first cell, right, left, up and down
PATCH_SIZE, STEM_DIM = 16, 64
PRETRAINING_SIZE = 224  # height and width of the pretraining images, in pixels


class PatchEmbed(nn.Module):
    """Images ``(B, C, H, W)`` to patches ``(B, ceil(H / 16), ceil(W / 16), dim)``.

    The first convolution halves the resolution. Zeros complete the last patches of its map.
    """

    def __init__(self, in_channels: int, arch: Arch) -> None:
        super().__init__()
        self.stem = nn.Sequential(*self._conv(in_channels, 7, stride=2))
        self.convs = nn.Sequential(*(layer for _ in range(arch.stem_convs) for layer in self._conv(STEM_DIM, 3)))
        self.projection = nn.Conv2d(STEM_DIM, arch.dim, PATCH_SIZE // 2, stride=PATCH_SIZE // 2)

    @staticmethod
    def _conv(in_channels: int, size: int, stride: int = 1) -> list[nn.Module]:
        conv = nn.Conv2d(in_channels, STEM_DIM, size, stride, padding=size // 2, bias=False)
        return [conv, nn.BatchNorm2d(STEM_DIM), nn.ReLU()]

    def forward(self, x: Tensor) -> Tensor:
        x = self.convs(self.stem(x))
        padding = self.projection.stride[0] - 1  # enough for any size; what no patch needs is not read
        return self.projection(F.pad(x, (0, padding, 0, padding))).permute(0, 2, 3, 1)


class SnakeS6(S6):
    """One S6 that reads a map along all four snakes; the outputs are summed, ``(B, H, W, channels)`` to the same shape.

    What enters the state at a cell depends on the direction of the step to it: a learned vector for this direction is
    added to the input weights ``B`` (paper, section 3.2, "Direction-Aware Updating").

    Args:
        channels: Channels of the maps.
        rank: Width of the bottleneck before the step sizes.
        raster_parameters: Whether step sizes, ``B`` and ``C`` stay in raster order (:class:`PlainMamba`).
        implementation: Implementation of the scan, a key of :data:`backbones.ops.selective_scan.IMPLEMENTATIONS`.
    """

    def __init__(self, channels: int, rank: int, raster_parameters: bool = True, implementation: str = 'auto') -> None:
        super().__init__(channels, rank=rank, implementation=implementation)
        self.raster_parameters = raster_parameters
        self.orders = [get_order(name) for name in ORDERS]
        self.directions = nn.Parameter(trunc_normal_(torch.empty(DIRECTIONS, self.sizes[-1]), std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        delta, b, c = self.x_proj(x).split(self.sizes, dim=-1)
        delta = F.linear(delta, self.dt_proj.weight)
        return functools.reduce(torch.add, (self._scan(order, x, delta, b, c) for order in self.orders))

    def _scan(self, order: Snake, x: Tensor, delta: Tensor, b: Tensor, c: Tensor) -> Tensor:
        """Scan maps along one snake, with step sizes ``delta``, and return the outputs as maps."""
        height, width = x.shape[1:3]
        # a product instead of indexing, whose gradient on CUDA may differ between runs
        steps = F.one_hot(order.directions(height, width, x.device), DIRECTIONS).to(self.directions.dtype)
        if self.raster_parameters:
            delta, b, c = (values.flatten(1, 2) for values in (delta, b, c))
        else:
            delta, b, c = (order.read(values) for values in (delta, b, c))
        b = b + steps @ self.directions
        y = selective_scan(
            order.read(x), delta, -self.A_log.exp(), b, c, self.D, self.dt_proj.bias, self.implementation
        )
        return order.restore(y, height, width)


class PlainMambaBlock(nn.Module):
    """``x + out_proj(s6(silu(conv(u))) * silu(z))`` with ``u, z = in_proj(norm(x))``; ``(B, H, W, dim)`` to the same.

    In the first block of some sizes, a depthwise convolution follows and replaces the sum.
    """

    def __init__(
        self, dim: int, dw: bool, drop_path: float, raster_parameters: bool = True, implementation: str = 'auto'
    ) -> None:
        super().__init__()
        self.hidden = 2 * dim
        self.norm = nn.LayerNorm(dim)
        self.in_proj = nn.Linear(dim, 2 * self.hidden)
        self.conv = NHWCConv(self.hidden, self.hidden, 7, padding=3, groups=self.hidden)
        self.s6 = SnakeS6(self.hidden, math.ceil(dim / 16), raster_parameters, implementation)
        self.out_proj = nn.Linear(self.hidden, dim)
        self.drop_path = DropPath(drop_path)
        self.dw = None
        if dw:
            conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim, bias=False)
            self.dw = nn.Sequential(conv, nn.BatchNorm2d(dim), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop_path(x, self._branch)
        if self.dw is None:
            return x
        return self.dw(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).to(x.dtype)  # sums stay in fp32 under autocast

    def _branch(self, x: Tensor) -> Tensor:
        u, z = self.in_proj(self.norm(x)).split(self.hidden, dim=-1)
        y = self.s6(F.silu(self.conv(u))) * F.silu(z)
        return self.out_proj(y.to(self.out_proj.weight.dtype))


NAMES = (  # patterns of official names, and ours
    (r'^layers\.', 'blocks.'),
    (r'\.mamba\.(x_proj|dt_proj|A_log|D)\b', r'.s6.\1'),
    (r'\.mamba\.direction_Bs$', '.s6.directions'),
    (r'\.mamba\.conv2d\.', '.conv.'),
    (r'\.mamba\.', '.'),
    (r'^ln1\.', f'out_norms.{len(STRIDES) - 1}.'),
)


def our_names(state_dict: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Convert official weights of ``depth`` blocks to our names. Weights with our names stay as they are.

    The official code adds the bias of the step sizes twice, so the converted bias is twice the official one.
    """
    # norms of maps are numbered by blocks
    norms = (r'^norm_layer(\d+)\.', lambda m: f'out_norms.{(int(m[1]) + 1) * len(STRIDES) // depth - 1}.')
    state = {k: 2 * v if k.endswith('.mamba.dt_proj.bias') else v for k, v in state_dict.items()}
    return renamed(state, (*NAMES, norms))


@MODELS.register_module()
class PlainMamba(IsotropicBackbone):
    """PlainMamba without the classifier; all maps have the architecture's ``dim`` channels.

    Args:
        arch: ``'l1'``, ``'l2'`` or ``'l3'``, or a dict of :class:`Arch`'s arguments.
        in_channels: Channels of the images.
        out_indices: Quarters of the blocks whose feature maps are returned, in ascending order from 0. Later blocks
            are not built.
        out_norm: Whether each returned map goes through a LayerNorm of its own, as in the official segmentors.
        strides: Strides of the four maps, in pixels, each one of 4, 8, 16 and 32. In the official segmentors, all are
            16, the size of a patch.
        drop_path_rate: Probability that the branch of the last block is skipped for a sample in training (stochastic
            depth). The probability grows linearly over the blocks, from 0 at the first.
        frozen_stages: -1 trains everything, 0 freezes patch embedding and positions, k also the first k quarters of
            the blocks. Output norms and rescaling layers are always trained.
        with_cp: Whether blocks are recomputed in the backward pass to save memory (activation checkpointing). With
            ``norm_eval=False``, the statistics of the batch norm in the first block then take each batch twice.
        raster_parameters: Whether only the input of a step follows the snake, as in the released code, with which the
            weights were trained: step size, ``B`` and ``C`` of step ``i`` are then those of cell ``i`` in raster
            order, row by row. ``False`` takes all of them from the cell on the snake, as in the paper.
        norm_eval: Whether the batch norms of the stem, and of the convolution after the first block, use their
            pretrained statistics in training, too, as in mmdet's ResNets. The official detectors and segmentors use
            the statistics of a batch on all GPUs instead: ``norm_eval=False`` with ``sync_bn='torch'`` at the top level
            of the config. Set it to ``False`` to train without pretrained weights, because there are no statistics to
            use.
        selective_scan: Implementation of the scans: ``'reference'`` steps through the sequence, ``'chunked'`` steps
            through many chunks at once, ``'triton'`` does so in Triton kernels on CUDA. ``'auto'`` is ``'triton'`` on
            CUDA and ``'chunked'`` elsewhere.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` loads pretrained weights from a URL or a file, and
            refuses weights that do not fit; ``None`` leaves the weights random. The official classifier's last norm
            becomes that of the last map, as in the official segmentors.

    Raises:
        UserError: For an unknown ``arch``, or arguments that do not fit it.

    Example:
        >>> backbone = PlainMamba('l1')
        >>> [tuple(f.shape) for f in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 192, 16, 24), (1, 192, 8, 12), (1, 192, 4, 6), (1, 192, 2, 3)]
    """

    allowed_missing_keys = (*(f'out_norms.{i}.' for i in range(len(STRIDES))), 'rescale.')  # a classifier has the last
    antialias = False  # as in the official code

    def __init__(
        self,
        arch: str | Mapping = 'l1',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm: bool = True,
        strides: Sequence[int] = STRIDES,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        raster_parameters: bool = True,
        norm_eval: bool = True,
        selective_scan: str = 'auto',
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        arch = get_arch('PlainMamba', arch, ARCHS)
        blocks = [
            PlainMambaBlock(arch.dim, arch.first_conv and not i, rate, raster_parameters, selective_scan)
            for i, rate in enumerate(drop_path_rates('PlainMamba', drop_path_rate, arch.depth))
        ]
        for block in blocks:
            init_layers(block, nn.Linear)
        self.norm_eval = norm_eval
        super().__init__(
            PatchEmbed(in_channels, arch),
            blocks,
            arch.dim,
            PATCH_SIZE,
            PRETRAINING_SIZE // PATCH_SIZE,
            out_indices,
            out_norm,
            frozen_stages,
            with_cp,
            init_cfg,
            strides,
        )

    @property
    def allowed_unexpected_keys(self) -> tuple[str, ...]:
        """Prefixes of names that the backbone may lack, among them the classifier's last norm."""
        return (*super().allowed_unexpected_keys, f'out_norms.{len(STRIDES) - 1}.')

    def convert_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert official weights to our names."""
        return our_names(state_dict, self.depth)
