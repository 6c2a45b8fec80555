"""VMamba: selective scans of a map in four orders (arXiv 2401.10166).

Its authors published two families. Blocks of the vanilla family are Mamba blocks. Blocks of the later family,
``v05_noz``, have an MLP instead of the gate, and a state of size 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from mmengine.registry import MODELS
from timm.layers import Mlp
from torch import Tensor, nn
from torch.nn import functional as F

from .base import NHWCConv, PyramidBackbone, Stage, check_stages, drop_path_rates, get_arch
from .drop_path import DropPath
from .errors import UserError
from .s6 import MapS6, init_layers
from .state_dicts import renamed


@dataclasses.dataclass(frozen=True)
class Arch:
    """One size of VMamba.

    Args:
        depths: Blocks of each stage.
        dims: Channels of each stage.
        ssm_ratio: Scanned channels, relative to ``dim``.
        vanilla: Whether the size belongs to the vanilla family, which has a state of size 16, a gate instead of an MLP,
            and patches instead of 3x3 convolutions for downsampling.
    """

    depths: Sequence[int]
    dims: Sequence[int]
    ssm_ratio: float = 2.0
    vanilla: bool = False

    def __post_init__(self) -> None:
        check_stages(self.depths, self.dims)
        if int(self.ssm_ratio * min(self.dims)) < 1:
            raise UserError(f'arch: ssm_ratio={self.ssm_ratio} leaves no channel')


# official repository, classification/configs/vssm; in the names of sizes, s is ssm_ratio and l is the depth of stage 3
ARCHS = dict(
    tiny=Arch((2, 2, 9, 2), (96, 192, 384, 768), vanilla=True),
    small=Arch((2, 2, 27, 2), (96, 192, 384, 768), vanilla=True),
    base=Arch((2, 2, 27, 2), (128, 256, 512, 1024), vanilla=True),
    tiny_s1l8=Arch((2, 2, 8, 2), (96, 192, 384, 768), ssm_ratio=1.0),
    tiny_s2l5=Arch((2, 2, 5, 2), (96, 192, 384, 768)),
    small_s2l15=Arch((2, 2, 15, 2), (96, 192, 384, 768)),
    base_s2l15=Arch((2, 2, 15, 2), (128, 256, 512, 1024)),
)
ORDERS = ('rows', 'columns', 'rows_reversed', 'columns_reversed')  # paper, section 4.2, in the order of the weights


class Patches(NHWCConv):
    """Patches of 4x4 pixels: images ``(B, H, W, C)`` to cells ``(B, ceil(H / 4), ceil(W / 4), dim)``.

    Zeros pad the last patches, as they do between stages. The official code instead drops up to 3 pixels at the
    right and at the bottom.
    """

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__(in_channels, dim, 4, stride=4)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        return super().forward(F.pad(x, (0, 0, 0, -width % 4, 0, -height % 4)))


class Stem(nn.Sequential):
    """Images ``(B, C, H, W)`` to cells ``(B, ceil(H / 4), ceil(W / 4), dim)``."""

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
        # an image in this layout gives a map in this layout; otherwise the norm would copy the whole map
        return super().forward(x.permute(0, 2, 3, 1).contiguous())


class PatchMerging(nn.Module):
    """Merge each group of 2x2 cells into one, ``(B, H, W, in_dim)`` to ``(B, ceil(H / 2), ceil(W / 2), dim)``."""

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
    """The 2D selective scan layer (paper, section 4.2 and Figure 3), ``(B, H, W, dim)`` to the same shape.

    ``out_proj(norm(s6(silu(conv(u)))) * silu(z))`` with ``u, z = in_proj(x)``; the later family has no ``z``.

    Args:
        dim: Channels.
        hidden: Scanned channels.
        s6: The scans, ``(B, H, W, hidden)`` to the same shape.
        vanilla: Whether there is a gate ``z``, and the convolution has a bias.
    """

    def __init__(self, dim: int, hidden: int, s6: nn.Module, vanilla: bool = True) -> None:
        super().__init__()
        self.hidden = hidden
        self.in_proj = nn.Linear(dim, hidden * (2 if vanilla else 1), bias=False)
        self.conv = NHWCConv(hidden, hidden, 3, padding=1, groups=hidden, bias=vanilla)
        self.s6 = s6
        self.norm = nn.LayerNorm(hidden)
        self.out_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        u, *z = self.in_proj(x).split(self.hidden, dim=-1)
        y = self.s6(F.silu(self.conv(u)))
        y = self.norm(y.to(self.norm.weight.dtype))  # fp32 even under autocast, as sums may overflow in half precision
        return self.out_proj(y * F.silu(z[0]) if z else y)


class VSSBlock(nn.Module):
    """``x + ss2d(norm(x))``, followed in the later family by ``x + mlp(norm2(x))``; ``(B, H, W, dim)`` to the same."""

    def __init__(self, dim: int, arch: Arch, drop_path: float = 0.0, implementation: str = 'auto') -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        hidden = int(arch.ssm_ratio * dim)
        s6 = MapS6(hidden, ORDERS, 16 if arch.vanilla else 1, math.ceil(dim / 16), implementation)
        self.op = SS2D(dim, hidden, s6, arch.vanilla)
        self.drop_path = DropPath(drop_path)
        self.mlp = None
        if not arch.vanilla:
            self.norm2 = nn.LayerNorm(dim)
            self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop_path(x, lambda x: self.op(self.norm(x)))
        return x if self.mlp is None else self.drop_path(x, lambda x: self.mlp(self.norm2(x)))


S6_NAMES = dict(  # official names of parameters, which hold those of all four S6, and our names in each S6
    x_proj_weight='x_proj.weight',
    dt_projs_weight='dt_proj.weight',
    dt_projs_bias='dt_proj.bias',
    A_logs='A_log',
    Ds='D',
)
NAMES = (  # patterns of the other official names, including those of the first release, and ours
    (r'^patch_embed\.(?:0|proj)\.', 'stem.0.'),
    (r'^patch_embed\.(?:2|norm)\.', 'stem.1.'),
    (r'^patch_embed\.5\.', 'stem.3.'),
    (r'^patch_embed\.7\.', 'stem.4.'),
    (r'^layers\.(\d+)\.downsample\.1\.', r'layers.\1.downsample.0.'),
    (r'^layers\.(\d+)\.downsample\.3\.', r'layers.\1.downsample.1.'),
    (r'^layers\.(\d+)\.downsample\.', lambda m: f'stages.{int(m[1]) + 1}.downsample.'),  # our stages begin with it
    (r'^layers\.', 'stages.'),
    (r'\.ln_1\.', '.norm.'),
    (r'\.self_attention\.', '.op.'),
    (r'\.op\.conv2d\.', '.op.conv.'),
    (r'\.op\.out_norm\.', '.op.norm.'),
    (r'^outnorm(\d)\.', r'out_norms.\1.'),
    (r'^(?:classifier\.)?(norm|head)\.', r'head.\1.'),
)


def converted(state_dict: dict[str, Tensor], names: Sequence[tuple]) -> dict[str, Tensor]:
    """Rename weights, and give each S6 its own parameters, which official weights hold concatenated or stacked.

    Args:
        state_dict: The weights.
        names: Patterns of official names, and what replaces them, applied in this order.
    """
    state = {}
    for key, value in renamed(state_dict, names).items():
        block, _, name = key.rpartition('.')
        if name in S6_NAMES:
            values = value.chunk(4) if name in ('A_logs', 'Ds') else value
            state |= {f'{block}.s6.{i}.{S6_NAMES[name]}': x for i, x in enumerate(values)}
        else:
            state[key] = value
    return state


def our_names(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert official weights to our names and shapes. Weights with our names stay as they are."""
    state = converted(state_dict, NAMES)
    # channels-first models store linear layers as 1x1 convolutions
    return {key: value.flatten(1) if value.shape[2:] == (1, 1) else value for key, value in state.items()}


@MODELS.register_module()
class VMamba(PyramidBackbone):
    """VMamba as a four-stage backbone; the maps have the architecture's ``dims`` as channels.

    Args:
        arch: One of ``ARCHS``: ``'tiny'``, ``'small'`` or ``'base'`` of the vanilla family, or ``'tiny_s1l8'``,
            ``'tiny_s2l5'``, ``'small_s2l15'`` or ``'base_s2l15'`` of the later one. A dict of :class:`Arch`'s
            arguments describes another size.
        in_channels: Channels of the images.
        out_indices: Stages whose feature maps are returned, in ascending order from 0. Later stages are not built.
        out_norm: Whether each returned map goes through a LayerNorm of its own, as in the official detectors and
            segmentors.
        drop_path_rate: Probability that a branch of the last block is skipped for a sample in training (stochastic
            depth). The probability grows linearly over the blocks, from 0 at the first.
        frozen_stages: -1 trains everything, 0 freezes the stem, k the stem and the first k stages. Output norms are
            always trained.
        with_cp: Whether blocks are recomputed in the backward pass to save memory (activation checkpointing).
        selective_scan: Implementation of the scans: ``'reference'`` steps through the sequence, ``'chunked'`` steps
            through many chunks at once, ``'triton'`` does so in Triton kernels on CUDA. ``'auto'`` is ``'triton'`` on
            CUDA and ``'chunked'`` elsewhere.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` loads pretrained weights from ``hf-hub:<repository>``, a
            URL or a file, and refuses weights that do not fit; ``None`` leaves the weights random.

    Raises:
        UserError: For an unknown ``arch``, or arguments that do not fit it.

    Example:
        >>> backbone = VMamba('tiny_s1l8')
        >>> [tuple(f.shape) for f in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 96, 16, 24), (1, 192, 8, 12), (1, 384, 4, 6), (1, 768, 2, 3)]
    """

    out_norm_eps = 1e-5  # PyTorch's default, as in all norms of VMamba
    convert_state_dict = staticmethod(our_names)

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
        for module in (stem, *stages):
            init_layers(module, nn.Linear)
        super().__init__(stem, stages, arch.dims, out_indices, out_norm, frozen_stages, with_cp, init_cfg)
