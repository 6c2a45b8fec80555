"""EfficientVMamba (arXiv 2403.09977): VMamba with atrous scans, and inverted residuals in the last two stages.

The blocks of the first two stages have two branches: selective scans over every second cell, and a convolution. Those
of the last two stages are MobileNetV2's inverted residuals (arXiv 1801.04381) with squeeze-and-excitation.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from mmengine.registry import MODELS
from timm.layers import SqueezeExcite
from torch import Tensor, nn
from torch.nn import functional as F

from .base import PyramidBackbone, Stage, check_stages, drop_path_rates, get_arch
from .channel_attention import ChannelAttention
from .drop_path import DropPath
from .errors import UserError
from .ops.scan_orders import get_order
from .s6 import S6, init_layers
from .vmamba import NAMES as VMAMBA_NAMES
from .vmamba import SS2D, PatchMerging, Stem, converted

SCANNED_STAGES = 2  # the first ones


@dataclasses.dataclass(frozen=True)
class Arch:
    """One size of EfficientVMamba.

    Args:
        depths: Blocks of each stage.
        dims: Channels of each stage, at least 8.
    """

    depths: Sequence[int]
    dims: Sequence[int]

    def __post_init__(self) -> None:
        check_stages(self.depths, self.dims)
        if min(self.dims) < 8:
            raise UserError(f'arch: dims={self.dims!r} must be at least 8, as the attention has an eighth of them')


# Official repository, classification/logs. The paper (Table 1) and the config file give the small size 96 channels, as
# the base size has; the released weights have 64, and only these fit the published 11 M parameters.
ARCHS = dict(
    tiny=Arch((2, 2, 4, 2), (48, 96, 192, 384)),
    small=Arch((2, 2, 4, 2), (64, 128, 256, 512)),
    base=Arch((2, 2, 9, 2), (96, 192, 384, 768)),
)
# Row and column of the first cell of each submap, and the order of its scan, in the order of the official weights
SCANS = (((0, 0), 'rows'), ((1, 0), 'columns'), ((0, 1), 'rows'), ((1, 1), 'columns'))


class AtrousS6(nn.ModuleList):
    """Four S6, each of which scans a quarter of a map; ``(B, H, W, channels)`` to the same shape.

    This is the paper's ES2D (section 4.1). Every second row and every second column form a submap, so there are four of
    them, and each cell belongs to one. Zeros complete maps with odd sides, and are scanned like cells.

    Args:
        channels: Channels of the maps.
        rank: Width of the bottleneck before the step sizes.
        implementation: Implementation of the scans, a key of :data:`backbones.ops.selective_scan.IMPLEMENTATIONS`.
    """

    def __init__(self, channels: int, rank: int, implementation: str = 'auto') -> None:
        super().__init__(S6(channels, rank=rank, implementation=implementation) for _ in SCANS)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))
        submaps = []
        for s6, ((row, column), name) in zip(self, SCANS, strict=True):
            submap, order = x[:, :, row, :, column], get_order(name)
            submaps.append(order.restore(s6(order.read(submap)), *submap.shape[1:3]))
        upper_left, lower_left, upper_right, lower_right = submaps
        left, right = (torch.stack(rows, 2) for rows in ((upper_left, lower_left), (upper_right, lower_right)))
        return torch.stack((left, right), 4).flatten(3, 4).flatten(1, 2)[:, :height, :width]


class EVSSBlock(nn.Module):
    """Scans beside a convolution (paper, section 4.2), ``(B, H, W, dim)`` to the same shape.

    ``x + se(op(y)) + se(conv_branch(y))`` with ``y = norm(x)``; both branches share the channel attention ``se``.
    """

    def __init__(self, dim: int, drop_path: DropPath, implementation: str = 'auto') -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.op = SS2D(dim, 2 * dim, AtrousS6(2 * dim, math.ceil(dim / 16), implementation))
        self.conv_branch = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, groups=dim), nn.BatchNorm2d(dim), nn.GELU(), nn.Conv2d(dim, dim, 1)
        )
        self.se = ChannelAttention(dim)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        return self.drop_path(x, self._branches)

    def _branches(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        details = self.conv_branch(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.se(self.op(y)) + self.se(details)


class InvertedResidual(nn.Module):
    """MobileNetV2's block with squeeze-and-excitation, ``(B, H, W, dim)`` to the same shape."""

    def __init__(self, dim: int, drop_path: DropPath) -> None:
        super().__init__()
        wide = 4 * dim
        self.conv_pw = nn.Sequential(nn.Conv2d(dim, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU())
        self.conv_dw = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), nn.ReLU()
        )
        self.se = SqueezeExcite(wide, rd_channels=wide // 8)
        self.conv_pw2 = nn.Sequential(nn.Conv2d(wide, dim, 1, bias=False), nn.BatchNorm2d(dim))
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        return self.drop_path(x, self._branch)

    def _branch(self, x: Tensor) -> Tensor:
        x = self.conv_dw(self.conv_pw(x.permute(0, 3, 1, 2)))
        return self.conv_pw2(self.se(x)).permute(0, 2, 3, 1)


NAMES = (  # patterns of official names and ours; in the last two stages, blocks are numbered from 1
    (r'^layers\.(\d+)\.\d+\.(?=norm\.|reduction\.)', lambda m: f'stages.{int(m[1]) + 1}.downsample.'),
    (r'^layers\.(\d+)\.(\d+)\.', lambda m: f'stages.{m[1]}.blocks.{int(m[2]) - 1}.'),
    (r'\.se\.conv_reduce\.', '.se.fc1.'),
    (r'\.se\.conv_expand\.', '.se.fc2.'),
    *VMAMBA_NAMES,
)


def our_names(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert official weights to our names and shapes. Weights with our names stay as they are."""
    return converted(state_dict, NAMES)


@MODELS.register_module()
class EfficientVMamba(PyramidBackbone):
    """EfficientVMamba as a four-stage backbone; the maps have the architecture's ``dims`` as channels.

    Args:
        arch: One of ``ARCHS``: ``'tiny'``, ``'small'`` or ``'base'``. A dict of :class:`Arch`'s arguments describes
            another size.
        in_channels: Channels of the images.
        out_indices: Stages whose feature maps are returned, in ascending order from 0. Later stages are not built.
        out_norm: Whether each returned map goes through a LayerNorm of its own, as in the official detectors.
        drop_path_rate: Probability that a branch of the last block is skipped for a sample in training (stochastic
            depth). The probability grows linearly over the blocks, from 0 at the first.
        norm_eval: Whether batch norms use the statistics of the pretrained weights in training, too, as those of
            mmdet's ResNets do. With ``False``, the statistics are those of the few images on each GPU, as in the
            official detectors, and the maps of an image depend on the other images. Set it to ``False`` to train
            without pretrained weights, because there are no statistics to use.
        frozen_stages: -1 trains everything, 0 freezes the stem, k the stem and the first k stages. Frozen batch norms
            keep their statistics. Output norms are always trained.
        with_cp: Whether blocks are recomputed in the backward pass to save memory (activation checkpointing). With
            ``norm_eval=False``, the running statistics of the batch norms then take each batch twice.
        selective_scan: Implementation of the scans: ``'reference'`` steps through the sequence, ``'chunked'`` steps
            through many chunks at once, ``'triton'`` does so in Triton kernels on CUDA. ``'auto'`` is ``'triton'`` on
            CUDA and ``'chunked'`` elsewhere.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` loads pretrained weights from a URL or a file, and
            refuses weights that do not fit; ``None`` leaves the weights random. The official weights are files to
            download (docs/models.md).

    Raises:
        UserError: For an unknown ``arch``, or arguments that do not fit it.

    Example:
        >>> backbone = EfficientVMamba('tiny')
        >>> [tuple(f.shape) for f in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 48, 16, 24), (1, 96, 8, 12), (1, 192, 4, 6), (1, 384, 2, 3)]
    """

    out_norm_eps = 1e-5  # PyTorch's default, as in all norms of EfficientVMamba
    convert_state_dict = staticmethod(our_names)

    def __init__(
        self,
        arch: str | Mapping = 'tiny',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm: bool = True,
        drop_path_rate: float = 0.0,
        norm_eval: bool = True,
        frozen_stages: int = -1,
        with_cp: bool = False,
        selective_scan: str = 'auto',
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        arch = get_arch('EfficientVMamba', arch, ARCHS)
        rates = iter(drop_path_rates('EfficientVMamba', drop_path_rate, sum(arch.depths)))
        stages = []
        for i, (depth, dim) in enumerate(zip(arch.depths, arch.dims, strict=True)):
            blocks = []
            for _ in range(depth):
                drop_path = DropPath(next(rates), whole_batch=not norm_eval)
                if i < SCANNED_STAGES:
                    blocks.append(EVSSBlock(dim, drop_path, selective_scan))
                else:
                    blocks.append(InvertedResidual(dim, drop_path))
            stages.append(Stage(PatchMerging(arch.dims[i - 1], dim) if i else nn.Identity(), blocks))
        stem = Stem(in_channels, arch.dims[0], vanilla=True)
        for module in (stem, *stages):
            init_layers(module, nn.Linear)
        self.norm_eval = norm_eval
        super().__init__(stem, stages, arch.dims, out_indices, out_norm, frozen_stages, with_cp, init_cfg)
