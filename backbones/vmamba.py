"""VMamba: selective scans of a map in four orders (arXiv 2401.10166).

Two families were published: the vanilla one, whose blocks are Mamba's, and ``v05_noz``, whose blocks have an MLP
instead of the gate and remember one number per channel.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

from mmengine.registry import MODELS
from timm.layers import DropPath, Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from .base import NHWCConv, PyramidBackbone, Stage, check_stages, drop_path_rates, get_arch
from .errors import UserError
from .s6 import MapS6, draw_weights


@dataclasses.dataclass(frozen=True)
class Arch:
    """One size of VMamba.

    Args:
        depths: Blocks per stage.
        dims: Channels per stage.
        ssm_ratio: Scanned channels over ``dim``.
        vanilla: Of the first family: a state of 16, a gate, no MLP, maps made smaller by patches instead of 3x3
            convolutions.
    """

    depths: Sequence[int]
    dims: Sequence[int]
    ssm_ratio: float = 2.0
    vanilla: bool = False

    def __post_init__(self) -> None:
        check_stages(self.depths, self.dims)
        if int(self.ssm_ratio * min(self.dims)) < 1:
            raise UserError(f'arch: ssm_ratio={self.ssm_ratio} leaves no channel')


ARCHS = dict(  # official repository, classification/configs/vssm
    tiny=Arch((2, 2, 9, 2), (96, 192, 384, 768), vanilla=True),
    small=Arch((2, 2, 27, 2), (96, 192, 384, 768), vanilla=True),
    base=Arch((2, 2, 27, 2), (128, 256, 512, 1024), vanilla=True),
    tiny_s1l8=Arch((2, 2, 8, 2), (96, 192, 384, 768), ssm_ratio=1.0),
    tiny_s2l5=Arch((2, 2, 5, 2), (96, 192, 384, 768)),
    small_s2l15=Arch((2, 2, 15, 2), (96, 192, 384, 768)),
    base_s2l15=Arch((2, 2, 15, 2), (128, 256, 512, 1024)),
)
ORDERS = ('rows', 'columns', 'rows_reversed', 'columns_reversed')  # of the paper, section 4.2, as the weights have them


class Patches(NHWCConv):
    """Patches of 4x4 pixels ``(B, H, W, C)`` as cells ``(B, ceil(H / 4), ceil(W / 4), dim)``.

    The official ones leave out up to 3 pixels at the right and at the bottom; here, zeros complete the last patches, as
    they do between the stages.
    """

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__(in_channels, dim, 4, stride=4)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        return super().forward(F.pad(x, (0, 0, 0, -width % 4, 0, -height % 4)))


class Stem(nn.Sequential):
    """Image ``(B, C, H, W)`` to cells ``(B, ceil(H / 4), ceil(W / 4), dim)``."""

    def __init__(self, in_channels: int, dim: int, vanilla: bool) -> None:
        if vanilla:
            super().__init__(Patches(in_channels, dim), nn.LayerNorm(dim))
        else:
            super().__init__(
                NHWCConv(in_channels, dim // 2, 3, stride=2, padding=1),
                nn.LayerNorm(dim // 2),
                nn.GELU(),
                NHWCConv(dim // 2, dim, 3, stride=2, padding=1),
                nn.LayerNorm(dim),
            )

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Cells ``(B, H, W, in_dim)`` two by two as one, ``(B, ceil(H / 2), ceil(W / 2), dim)``."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * in_dim)
        self.reduction = nn.Linear(4 * in_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # the upper left, lower left, upper right, lower right cell
        return self.reduction(self.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3)))


class SS2D(nn.Module):
    """``out_proj(norm(s6(silu(conv(u)))) * silu(z))`` with ``u, z = in_proj(x)``, or in ``v05_noz`` without ``z``.

    Maps ``(B, H, W, dim)`` to the same shape (paper, section 4.2 and Figure 3).
    """

    def __init__(self, dim: int, arch: Arch, form: str = 'auto') -> None:
        super().__init__()
        self.hidden = int(arch.ssm_ratio * dim)
        self.in_proj = nn.Linear(dim, self.hidden * (2 if arch.vanilla else 1), bias=False)
        self.conv = NHWCConv(self.hidden, self.hidden, 3, padding=1, groups=self.hidden, bias=arch.vanilla)
        self.s6 = MapS6(self.hidden, ORDERS, 16 if arch.vanilla else 1, math.ceil(dim / 16), form)
        self.norm = nn.LayerNorm(self.hidden)
        self.out_proj = nn.Linear(self.hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        u, *z = self.in_proj(x).split(self.hidden, dim=-1)
        y = self.s6(F.silu(self.conv(u)))
        y = self.norm(y.to(self.norm.weight.dtype))  # single precision, under autocast: sums may leave half's range
        return self.out_proj(y * F.silu(z[0]) if z else y)


class VSSBlock(nn.Module):
    """``x + ss2d(norm(x))``, and but for the vanilla family ``x + mlp(norm2(x))`` after it; ``(B, H, W, dim)``."""

    def __init__(self, dim: int, arch: Arch, drop_path: float = 0.0, form: str = 'auto') -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.op = SS2D(dim, arch, form)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.mlp = None
        if not arch.vanilla:
            self.norm2 = nn.LayerNorm(dim)
            self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.op(self.norm(x)))
        return x if self.mlp is None else x + self.drop_path(self.mlp(self.norm2(x)))


SCANS = dict(  # official names of what four S6 hold, stacked or one behind the other, and ours for each
    x_proj_weight='x_proj.weight',
    dt_projs_weight='dt_proj.weight',
    dt_projs_bias='dt_proj.bias',
    A_logs='A_log',
    Ds='D',
)
NAMES = (  # the rest, in regular expressions; some of the first release had other names
    (r'^patch_embed\.(?:0|proj)\.', 'stem.0.'),
    (r'^patch_embed\.(?:2|norm)\.', 'stem.1.'),
    (r'^patch_embed\.5\.', 'stem.3.'),
    (r'^patch_embed\.7\.', 'stem.4.'),
    (r'^layers\.(\d+)\.downsample\.1\.', r'layers.\1.downsample.0.'),
    (r'^layers\.(\d+)\.downsample\.3\.', r'layers.\1.downsample.1.'),
    (r'^layers\.(\d+)\.downsample\.', lambda m: f'stages.{int(m[1]) + 1}.downsample.'),  # ours begins a stage with it
    (r'^layers\.', 'stages.'),
    (r'\.ln_1\.', '.norm.'),
    (r'\.self_attention\.', '.op.'),
    (r'\.op\.conv2d\.', '.op.conv.'),
    (r'\.op\.out_norm\.', '.op.norm.'),
    (r'^outnorm(\d)\.', r'out_norms.\1.'),
    (r'^(?:classifier\.)?(norm|head)\.', r'head.\1.'),
)


def our_names(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names and in the shapes of the official checkpoints, or ours already, as ours."""
    renamed = {}
    for key, value in state_dict.items():
        for pattern, ours in NAMES:
            key = re.sub(pattern, ours, key)
        block, _, name = key.rpartition('.')
        if name in SCANS:
            parts = value.chunk(4) if name in ('A_logs', 'Ds') else value
            renamed |= {f'{block}.s6.{i}.{SCANS[name]}': part for i, part in enumerate(parts)}
        else:
            renamed[key] = value.flatten(1) if value.shape[2:] == (1, 1) else value  # linear layers as convolutions
    return renamed


@MODELS.register_module()
class VMamba(PyramidBackbone):
    """VMamba as a four-stage backbone; channels of the maps are the architecture's ``dims``.

    Args:
        arch: A size of ``ARCHS``: ``'tiny'``, ``'small'``, ``'base'`` of the vanilla family, ``'tiny_s1l8'``,
            ``'tiny_s2l5'``, ``'small_s2l15'``, ``'base_s2l15'`` of the later one; or a dict of :class:`Arch`'s
            arguments.
        in_channels: Channels of the images.
        out_indices: See :class:`PyramidBackbone`, like the arguments below.
        out_norm: A LayerNorm on each map, as the official detectors and segmentors have it.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 over all blocks.
        frozen_stages: How much is frozen.
        with_cp: Trade compute for memory.
        selective_scan: How scans are computed, see :data:`backbones.ops.selective_scan.FORMS`.
        init_cfg: Where weights come from.

    Raises:
        UserError: For an unknown ``arch``, or arguments that do not fit it.

    Example:
        >>> backbone = VMamba('tiny_s1l8')
        >>> [tuple(f.shape) for f in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 96, 16, 24), (1, 192, 8, 12), (1, 384, 4, 6), (1, 768, 2, 3)]
    """

    norm_eps = 1e-5  # PyTorch's own, as of all norms here

    def __init__(
        self,
        arch: str | Mapping = 'tiny',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm: bool = True,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        selective_scan: str = 'auto',
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        arch = get_arch('VMamba', arch, ARCHS)
        rates = iter(drop_path_rates('VMamba', drop_path_rate, sum(arch.depths)))
        stages = []
        for i, (depth, dim) in enumerate(zip(arch.depths, arch.dims, strict=True)):
            if not i:
                downsample = nn.Identity()
            elif arch.vanilla:
                downsample = PatchMerging(arch.dims[i - 1], dim)
            else:
                downsample = nn.Sequential(NHWCConv(arch.dims[i - 1], dim, 3, stride=2, padding=1), nn.LayerNorm(dim))
            stages.append(Stage(downsample, [VSSBlock(dim, arch, next(rates), selective_scan) for _ in range(depth)]))
        stem = Stem(in_channels, arch.dims[0], arch.vanilla)
        for part in (stem, *stages):
            draw_weights(part, nn.Linear)
        super().__init__(stem, stages, arch.dims, out_indices, out_norm, frozen_stages, with_cp, init_cfg)

    rename = staticmethod(our_names)
