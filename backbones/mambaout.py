"""MambaOut: gated CNN blocks, which are Mamba blocks without the SSM (arXiv 2405.07992), and Mamba blocks.

Parameter names are timm's, so timm's conversion of the authors' checkpoints works here too.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from mmengine.logging import print_log
from mmengine.registry import MODELS
from timm.layers import ClNormMlpClassifierHead, LayerScale
from timm.models.mambaout import MlpHead, checkpoint_filter_fn
from torch import Tensor, nn

from .base import LN_EPS, NHWCConv, PyramidBackbone, Stage, check_stages, drop_path_rates, get_arch
from .drop_path import DropPath
from .errors import UserError
from .ops.gated_cnn import IMPLEMENTATIONS, gated_cnn, implementation_for, implementation_on
from .ops.norm_act import norm_act
from .ops.selective_scan import check_implementation
from .s6 import MapS6, init_layers


@dataclasses.dataclass(frozen=True)
class Arch:
    """One size of MambaOut.

    Args:
        depths: Blocks of each stage.
        dims: Channels of each stage.
        expansion_ratio: Hidden width of a block, relative to ``dim`` and rounded down.
        conv_ratio: Convolved channels, relative to ``dim``; they are the last of the hidden channels.
        kernel_size: Size of the depthwise convolution, an odd number.
        act: Activation, ``'gelu'`` or ``'silu'``.
        stem_norm: Whether a LayerNorm follows the first convolution of the stem.
        norm_first: Whether the LayerNorm of a downsampling layer comes before its convolution instead of after it.
        layer_scale: Initial value of the learned scale per channel of each block's branch; ``None`` for no scale.
        hidden_norm: Whether the hidden layer of the classifier has a LayerNorm.
    """

    depths: Sequence[int]
    dims: Sequence[int]
    expansion_ratio: float = 8 / 3
    conv_ratio: float = 1.0
    kernel_size: int = 7
    act: str = 'gelu'
    stem_norm: bool = True
    norm_first: bool = False
    layer_scale: float | None = None
    hidden_norm: bool = True

    def __post_init__(self) -> None:
        check_stages(self.depths, self.dims)
        if self.act not in ACTS:
            raise UserError(f'arch: act={self.act!r} is not one of {", ".join(ACTS)}')
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise UserError(f'arch: kernel_size={self.kernel_size} must be odd and positive')
        if not 0 < int(self.conv_ratio * min(self.dims)) <= int(self.expansion_ratio * min(self.dims)):
            raise UserError(
                f'arch: conv_ratio={self.conv_ratio} must be above 0 and at most expansion_ratio={self.expansion_ratio}'
            )


ACTS = dict(gelu=nn.GELU, silu=nn.SiLU)
RW = dict(stem_norm=False, norm_first=True, layer_scale=1e-6, hidden_norm=False)  # shared by timm's own sizes
ARCHS = dict(
    # paper, Table 4 and section 4.1
    femto=Arch((3, 3, 9, 3), (48, 96, 192, 288)),
    kobe=Arch((3, 3, 15, 3), (48, 96, 192, 288)),
    tiny=Arch((3, 3, 9, 3), (96, 192, 384, 576)),
    small=Arch((3, 4, 27, 3), (96, 192, 384, 576)),
    base=Arch((3, 4, 27, 3), (128, 256, 512, 768)),
    # timm, models/mambaout.py
    small_rw=Arch((3, 4, 27, 3), (96, 192, 384, 576), **RW),
    base_short_rw=Arch((3, 3, 25, 3), (128, 256, 512, 768), expansion_ratio=3.0, conv_ratio=1.25, **RW),
    base_tall_rw=Arch((3, 4, 30, 3), (128, 256, 512, 768), expansion_ratio=2.5, conv_ratio=1.25, **RW),
    base_wide_rw=Arch((3, 4, 27, 3), (128, 256, 512, 768), expansion_ratio=3.0, conv_ratio=1.5, act='silu', **RW),
    base_plus_rw=Arch((3, 4, 30, 3), (128, 256, 512, 768), expansion_ratio=3.0, conv_ratio=1.5, act='silu', **RW),
)


class Stem(nn.Module):
    """Two 3x3 convolutions of stride 2, ``(B, C, H, W)`` to ``(B, ceil(H / 4), ceil(W / 4), dim)``."""

    def __init__(self, in_channels: int, dim: int, arch: Arch) -> None:
        super().__init__()
        self.conv1 = NHWCConv(in_channels, dim // 2, 3, stride=2, padding=1)
        self.norm1 = nn.LayerNorm(dim // 2, eps=LN_EPS) if arch.stem_norm else nn.Identity()
        self.act = ACTS[arch.act]()
        self.conv2 = NHWCConv(dim // 2, dim, 3, stride=2, padding=1)
        self.norm2 = nn.LayerNorm(dim, eps=LN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        # an image of several channels in this layout gives a map in this layout; else the norm would copy the whole map
        x = self.conv1(x.permute(0, 2, 3, 1).contiguous())
        # maps at stride 2 are the largest of all, so one instead of two is kept for the backward pass
        x = norm_act(x, self.norm1, self.act) if isinstance(self.norm1, nn.LayerNorm) else self.act(x)
        return self.norm2(self.conv2(x))


class Downsample(nn.Module):
    """A 3x3 convolution of stride 2 and a LayerNorm, in the architecture's order; ``(B, H, W, C)`` throughout."""

    def __init__(self, in_dim: int, dim: int, arch: Arch) -> None:
        super().__init__()
        self.norm_first = arch.norm_first
        self.norm = nn.LayerNorm(in_dim if arch.norm_first else dim, eps=LN_EPS)
        self.conv = NHWCConv(in_dim, dim, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.norm(x)) if self.norm_first else self.norm(self.conv(x))


class GatedCNNBlock(nn.Module):
    """The gated CNN block (paper, Algorithm 1), ``(B, H, W, C)`` to the same shape.

    With an SSM it becomes the Mamba block: ``s6(act(conv(c)))`` replaces ``conv(c)`` (paper, Figure 1, Eq. 2 and 3).

    Args:
        dim: Channels ``C``.
        arch: Ratios, kernel size, activation and layer scale.
        drop_path: Probability that the branch is skipped for a sample.
        implementation: A key of :data:`backbones.ops.gated_cnn.IMPLEMENTATIONS`. A block with an SSM is always
            ``'eager'``.
        ssm: Builds the SSM for a number of channels; ``None`` for a block without one.
    """

    def __init__(
        self,
        dim: int,
        arch: Arch,
        drop_path: float = 0.0,
        implementation: str = 'auto',
        ssm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        hidden, convolved = int(arch.expansion_ratio * dim), int(arch.conv_ratio * dim)
        self.implementation = 'eager' if ssm else implementation  # the fused operator has no SSM
        self.sizes = [hidden, hidden - convolved, convolved]  # channels of g, i and c
        self.norm = nn.LayerNorm(dim, eps=LN_EPS)
        self.fc1 = nn.Linear(dim, hidden * 2)
        self.act = ACTS[arch.act]()
        self.conv = NHWCConv(convolved, convolved, arch.kernel_size, padding=arch.kernel_size // 2, groups=convolved)
        self.fc2 = nn.Linear(hidden, dim)
        self.ls = LayerScale(dim, arch.layer_scale) if arch.layer_scale is not None else nn.Identity()
        self.drop_path = DropPath(drop_path)
        self.s6 = ssm(convolved) if ssm else None

    def forward(self, x: Tensor) -> Tensor:
        return self.drop_path(x, self.branch)

    def branch(self, x: Tensor) -> Tensor:
        """Compute the residual branch, ``(B, H, W, C)`` to the same shape."""
        implementation = implementation_for(x, self.implementation)
        if implementation == 'eager':
            x = self.norm(x)
            g, i, c = self.fc1(x).split(self.sizes, dim=-1)
            c = self.conv(c)
            if self.s6 is not None:
                c = self.s6(self.act(c)).to(i.dtype)  # the SSM returns fp32 even under autocast
            x = self.fc2(self.act(g) * torch.cat((i, c), dim=-1))
        else:  # the same in one operator
            x = gated_cnn(x, self.norm, self.fc1, self.conv, self.fc2, self.act, implementation)
        return self.ls(x)


def our_names(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights from the authors' names to timm's, which are also ours. timm's names stay as they are."""
    return checkpoint_filter_fn(state_dict, None)


def authors_names(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights from our names to those of the authors' checkpoints: the inverse of :func:`our_names`."""
    patterns = (
        (r'^stem\.', 'downsample_layers.0.'),
        (r'^stages\.(\d+)\.downsample\.', r'downsample_layers.\1.'),
        (r'^stages\.(\d+)\.blocks\.', r'stages.\1.'),
        (r'^head\.norm\.', 'norm.'),
        (r'^head\.pre_logits\.fc\.', 'head.fc1.'),
        (r'^head\.pre_logits\.norm\.', 'head.norm.'),
        (r'^head\.fc\.', 'head.fc2.'),
    )
    renamed = {}
    for key, value in state_dict.items():
        name = next((new for pattern in patterns if (new := re.sub(*pattern, key)) != key), key)
        renamed[name] = value
    return renamed


@MODELS.register_module()
class MambaOut(PyramidBackbone):
    """MambaOut as a four-stage backbone; the maps have the architecture's ``dims`` as channels.

    The last stage is 6 times as wide as the first, not 8 times as in Swin or ConvNeXt, so ``in_channels`` of a neck or
    head must be set to match.

    Args:
        arch: One of ``ARCHS``: ``'femto'``, ``'kobe'``, ``'tiny'``, ``'small'`` or ``'base'`` of the paper, or one of
            timm's ``'..._rw'`` sizes. A dict of :class:`Arch`'s arguments describes another size.
        in_channels: Channels of the images.
        out_indices: Stages whose feature maps are returned, in ascending order from 0. Later stages are not built.
        out_norm: Whether each returned map goes through a LayerNorm of its own.
        drop_path_rate: Probability that the last block's branch is skipped for a sample in training (stochastic
            depth). The probability grows linearly over the blocks, from 0 at the first.
        frozen_stages: -1 trains everything, 0 freezes the stem, k the stem and the first k stages. Output norms and
            SSMs are always trained.
        with_cp: Whether blocks are recomputed in the backward pass to save memory (activation checkpointing).
        gated_cnn: Implementation of the blocks: ``'eager'`` runs their modules one by one, ``'fused'`` runs one
            operator that needs less memory, ``'triton'`` runs that operator with Triton kernels on CUDA. ``'auto'``
            is ``'eager'`` on CUDA and ``'fused'`` elsewhere. The results are the same.
        ssm: Scan orders of an SSM after the convolution of every block, from
            :data:`backbones.ops.scan_orders.ORDERS`; ``None`` for no SSM. Each order has an S6 of its own, and their
            outputs are summed: ``('rows',)`` scans once, as Mamba does, and ``('rows', 'columns', 'rows_reversed',
            'columns_reversed')`` scans as VMamba does. Blocks with an SSM are computed eagerly. Published weights do
            not hold an S6, so it is initialised at random.
        selective_scan: Implementation of the SSM's scan: ``'reference'`` steps through the sequence, ``'chunked'``
            steps through many chunks at once, ``'triton'`` does so in Triton kernels on CUDA. ``'auto'`` is
            ``'triton'`` on CUDA and ``'chunked'`` elsewhere.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` loads pretrained weights from ``hf-hub:<repository>``, a
            URL or a file, and refuses weights that do not fit; ``None`` leaves the weights random.

    Raises:
        UserError: For an unknown ``arch``, or arguments that do not fit it.

    Example:
        >>> backbone = MambaOut('tiny')
        >>> [tuple(f.shape) for f in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 96, 16, 24), (1, 192, 8, 12), (1, 384, 4, 6), (1, 576, 2, 3)]
    """

    allowed_missing_keys = (*PyramidBackbone.allowed_missing_keys, '.s6.')
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
        gated_cnn: str = 'auto',
        ssm: Sequence[str] | None = None,
        selective_scan: str = 'auto',
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        arch = get_arch('MambaOut', arch, ARCHS)
        if not isinstance(gated_cnn, str) or gated_cnn not in IMPLEMENTATIONS:
            known = '; '.join(f'{name!r}: {description}' for name, description in IMPLEMENTATIONS.items())
            raise UserError(f'MambaOut: gated_cnn={gated_cnn!r} is unknown; known: {known}')
        check_implementation(selective_scan)
        if not isinstance(ssm, list | tuple | None):
            raise UserError(f"MambaOut: ssm={ssm!r} must be a list of scan orders, such as ['rows']")
        if ssm and gated_cnn in ('fused', 'triton'):
            raise UserError(
                f"MambaOut: gated_cnn={gated_cnn!r} cannot compute an SSM; with ssm={ssm}, use gated_cnn='auto'"
            )
        make_ssm = partial(MapS6, orders=ssm, implementation=selective_scan) if ssm else None
        rates = iter(drop_path_rates('MambaOut', drop_path_rate, sum(arch.depths)))
        stages = []
        for i, (depth, dim) in enumerate(zip(arch.depths, arch.dims, strict=True)):
            downsample = Downsample(arch.dims[i - 1], dim, arch) if i else nn.Identity()
            blocks = [GatedCNNBlock(dim, arch, next(rates), gated_cnn, make_ssm) for _ in range(depth)]
            stages.append(Stage(downsample, blocks))
        stem = Stem(in_channels, arch.dims[0], arch)
        for module in (stem, *stages):
            init_layers(module, (nn.Conv2d, nn.Linear))
        self.hidden_norm = arch.hidden_norm
        super().__init__(stem, stages, arch.dims, out_indices, out_norm, frozen_stages, with_cp, init_cfg)

    def build_head(self, num_classes: int) -> nn.Module:
        """Build the head of the published classifiers: the mean over all cells, a LayerNorm and an MLP.

        Args:
            num_classes: Length of the logits.

        Returns:
            A module from the cells of the last stage, ``(B, H, W, C)``, to the logits ``(B, num_classes)``.
        """
        dim, norm = self.num_features, partial(nn.LayerNorm, eps=LN_EPS)
        if self.hidden_norm:
            return MlpHead(dim, num_classes, norm_layer=norm)
        return ClNormMlpClassifierHead(dim, num_classes, hidden_size=4 * dim, norm_layer=norm)

    def init_weights(self) -> None:
        """Apply ``init_cfg`` and log how the blocks are computed."""
        super().init_weights()
        block = self.stages[0].blocks[0]
        implementation = implementation_on(block.fc1.weight.device, block.implementation)
        print_log(f'MambaOut: blocks are computed as {implementation!r}: {IMPLEMENTATIONS[implementation]}', 'current')
