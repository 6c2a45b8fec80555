"""MambaOut: gated CNN blocks, a Mamba block without its SSM (arXiv 2405.07992); and with it, to see what it does.

Parameter names are timm's, so that timm's map from the authors' checkpoints is also ours.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from mmengine.logging import print_log
from mmengine.registry import MODELS
from timm.layers import ClNormMlpClassifierHead, DropPath, LayerScale
from timm.models.mambaout import MlpHead, checkpoint_filter_fn
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .base import LN_EPS, NHWCConv, PyramidBackbone, Stage, check_stages, drop_path_rates, get_arch
from .errors import UserError
from .ops.gated_cnn import FORMS, form_on, gated_cnn
from .ops.selective_scan import check_form
from .s6 import MapS6, draw_weights


@dataclasses.dataclass(frozen=True)
class Arch:
    """One size of MambaOut.

    Args:
        depths: Blocks per stage.
        dims: Channels per stage.
        expansion_ratio: Hidden width over ``dim``; the hidden width is cut to an integer.
        conv_ratio: Convolved channels over ``dim``; they are the last of the hidden ones.
        kernel_size: Of the depthwise convolution.
        act: ``'gelu'`` or ``'silu'``.
        stem_norm: A LayerNorm between the stem's two convolutions.
        norm_first: Downsample with the norm before the convolution instead of behind it.
        layer_scale: Initial value of a learned scale per channel on each block's branch; none where ``None``.
        hidden_norm: A LayerNorm on the hidden layer of the classifier.
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
RW = dict(stem_norm=False, norm_first=True, layer_scale=1e-6, hidden_norm=False)  # common to timm's own sizes
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
        self.conv1 = nn.Conv2d(in_channels, dim // 2, 3, stride=2, padding=1)
        self.norm1 = nn.LayerNorm(dim // 2, eps=LN_EPS) if arch.stem_norm else nn.Identity()
        self.act = ACTS[arch.act]()
        self.conv2 = nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1)
        self.norm2 = nn.LayerNorm(dim, eps=LN_EPS)

    def _norm_and_act(self, x: Tensor) -> Tensor:
        return self.act(self.norm1(x))

    def forward(self, x: Tensor) -> Tensor:
        # computed again in the backward pass: at stride 2, the inputs of both would be the largest maps that are kept
        x = checkpoint(self._norm_and_act, self.conv1(x).permute(0, 2, 3, 1), use_reentrant=False)
        return self.norm2(self.conv2(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


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
    """``x + fc2(act(g) * [i, dwconv(c)])`` with ``g, i, c = fc1(norm(x))`` (paper, Algorithm 1).

    With an SSM, ``s6(act(dwconv(c)))`` is in the place of ``dwconv(c)``: a Mamba block (paper, Figure 1, Eq. 2 and 3).

    Args:
        dim: Channels ``C`` of the ``(B, H, W, C)`` input and output.
        arch: Ratios, kernel size, activation and layer scale.
        drop_path: Probability of leaving the branch out, per sample.
        form: Of the branch, one of :data:`backbones.ops.gated_cnn.FORMS`.
        ssm: Makes the SSM of as many channels as are convolved.
    """

    def __init__(
        self,
        dim: int,
        arch: Arch,
        drop_path: float = 0.0,
        form: str = 'auto',
        ssm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        hidden, convolved = int(arch.expansion_ratio * dim), int(arch.conv_ratio * dim)
        self.form = form
        self.sizes = [hidden, hidden - convolved, convolved]  # of g, i and c
        self.norm = nn.LayerNorm(dim, eps=LN_EPS)
        self.fc1 = nn.Linear(dim, hidden * 2)
        self.act = ACTS[arch.act]()
        self.conv = NHWCConv(convolved, convolved, arch.kernel_size, padding=arch.kernel_size // 2, groups=convolved)
        self.fc2 = nn.Linear(hidden, dim)
        self.ls = LayerScale(dim, arch.layer_scale) if arch.layer_scale is not None else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.s6 = ssm(convolved) if ssm else None

    def forward(self, x: Tensor) -> Tensor:
        if self.s6 is None:
            branch = gated_cnn(x, self.norm, self.fc1, self.conv, self.fc2, self.act, self.form)
        else:
            g, i, c = self.fc1(self.norm(x)).split(self.sizes, dim=-1)
            mixed = self.s6(self.act(self.conv(c))).to(self.fc2.weight.dtype)  # single precision, under autocast
            branch = self.fc2(self.act(g) * torch.cat((i, mixed), dim=-1))
        return x + self.drop_path(self.ls(branch))


def our_names(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The authors' names or timm's as ours, which are timm's."""
    return checkpoint_filter_fn(state_dict, None)


def authors_names(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of :func:`our_names`: ours as those of the authors' checkpoints."""
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
    """MambaOut as a four-stage backbone; channels of the maps are the architecture's ``dims``.

    The last stage is 6 times as wide as the first, not 8 times as in Swin or ConvNeXt: a neck's or head's
    ``in_channels`` must say so.

    Args:
        arch: A size of ``ARCHS`` (``'femto'``, ``'kobe'``, ``'tiny'``, ``'small'``, ``'base'`` of the paper, and timm's
            ``'..._rw'`` ones), or a dict of :class:`Arch`'s arguments.
        in_channels: Channels of the images.
        out_indices: See :class:`PyramidBackbone`, like the arguments below.
        out_norm: A LayerNorm on each map.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 over all blocks.
        frozen_stages: How much is frozen.
        with_cp: Trade compute for memory.
        gated_cnn: How the branch of each block is computed: ``'auto'``, ``'eager'``, ``'fused'`` or ``'triton'``, see
            :data:`backbones.ops.gated_cnn.FORMS`. All are the same function.
        ssm: Put the SSM back, after the convolution of every block: names of :data:`backbones.ops.scan_orders.ORDERS`.
            A map is read in each order by an S6 of its own, and what they make of it is summed: ``('rows',)`` scans
            once, as Mamba does, ``('rows', 'columns', 'rows_reversed', 'columns_reversed')`` as VMamba does. Blocks are
            then computed module by module. Published weights hold no S6: it starts at random.
        selective_scan: How the SSM is computed, see :data:`backbones.ops.selective_scan.FORMS`.
        init_cfg: Where weights come from.

    Raises:
        UserError: For an unknown ``arch``, or arguments that do not fit it.

    Example:
        >>> backbone = MambaOut('tiny')
        >>> [tuple(f.shape) for f in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 96, 16, 24), (1, 192, 8, 12), (1, 384, 4, 6), (1, 576, 2, 3)]
    """

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
        if gated_cnn not in list(FORMS):  # which compares, and so answers what has no hash
            forms = '; '.join(f'{name!r}: {what}' for name, what in FORMS.items())
            raise UserError(f'MambaOut: gated_cnn={gated_cnn!r} is none of {forms}')
        check_form(selective_scan)
        if not isinstance(ssm, list | tuple | None):
            raise UserError(f"MambaOut: ssm={ssm!r} must be a list of scan orders, such as ['rows']")
        if ssm and gated_cnn in ('fused', 'triton'):
            raise UserError(f"MambaOut: gated_cnn={gated_cnn!r} has no SSM; with ssm={ssm}, leave it at 'auto'")
        make_ssm = partial(MapS6, orders=ssm, form=selective_scan) if ssm else None
        rates = iter(drop_path_rates('MambaOut', drop_path_rate, sum(arch.depths)))
        stages = []
        for i, (depth, dim) in enumerate(zip(arch.depths, arch.dims, strict=True)):
            downsample = Downsample(arch.dims[i - 1], dim, arch) if i else nn.Identity()
            blocks = [GatedCNNBlock(dim, arch, next(rates), gated_cnn, make_ssm) for _ in range(depth)]
            stages.append(Stage(downsample, blocks))
        stem = Stem(in_channels, arch.dims[0], arch)
        for part in (stem, *stages):
            draw_weights(part, (nn.Conv2d, nn.Linear))
        super().__init__(stem, stages, arch.dims, out_indices, out_norm, frozen_stages, with_cp, init_cfg)
        self.gated_cnn = 'eager' if ssm else gated_cnn

    unpublished = (*PyramidBackbone.unpublished, '.s6.')
    rename = staticmethod(our_names)

    def init_weights(self) -> None:
        """Apply ``init_cfg``, and say how the blocks are computed."""
        super().init_weights()
        form = form_on(next(self.parameters()).device, self.gated_cnn)
        print_log(f'MambaOut: the branch of each block is {form!r}, {FORMS[form]}', 'current')


@MODELS.register_module()
class MambaOutClassifier(MambaOut):
    """MambaOut with its ImageNet classifier: the whole of what the published weights hold.

    Args:
        arch: As in :class:`MambaOut`.
        num_classes: Length of the logits.
        init_cfg: As in :class:`MambaOut`.
    """

    def __init__(self, arch: str | Mapping = 'tiny', num_classes: int = 1000, init_cfg: dict | None = None) -> None:
        size, norm = get_arch('MambaOut', arch, ARCHS), partial(nn.LayerNorm, eps=LN_EPS)
        last, dim = len(size.dims) - 1, size.dims[-1]
        super().__init__(arch, out_indices=(last,), out_norm=False, init_cfg=init_cfg)
        if size.hidden_norm:
            self.head = MlpHead(dim, num_classes, norm_layer=norm)
        else:
            self.head = ClNormMlpClassifierHead(dim, num_classes, hidden_size=4 * dim, norm_layer=norm)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` to logits ``(B, num_classes)``."""
        (x,) = super().forward(x)
        return self.head(x.permute(0, 2, 3, 1))
