"""LocalMamba: selective scans in orders that a search chose for each block, with windows among them (arXiv 2403.09338).

LocalVMamba is a pyramid with the body of VMamba, LocalVim a stack of blocks of one width like Vim.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from . import vmamba
from .base import STRIDES, PyramidBackbone, Stage, check_stages, drop_path_rates, get_arch
from .channel_attention import ChannelAttention
from .drop_path import DropPath
from .errors import UserError
from .local_mamba_directions import LOCAL_VIM, LOCAL_VIM_SMALL, LOCAL_VMAMBA_SMALL, LOCAL_VMAMBA_TINY
from .ops.scan_orders import Lines, Order, get_order
from .s6 import CausalConvS6, MapS6, init_layers
from .state_dicts import renamed
from .vim import MambaBackbone, MambaBlock, patch_positions


def check_orders(orders: Sequence[Sequence[str]], depth: int) -> None:
    """Raise a :class:`UserError` unless ``orders`` holds a list of known scan orders for each of ``depth`` blocks."""
    lists = isinstance(orders, Sequence) and all(isinstance(block, list | tuple) and block for block in orders)
    if not lists or len(orders) != depth:
        found = len(orders) if lists else repr(orders)
        raise UserError(f'arch: orders must hold a list of scan orders for each of the {depth} blocks, not {found}')
    for block in orders:
        for name in block:
            get_order(name)


@dataclasses.dataclass(frozen=True)
class VMambaArch:
    """One size of LocalVMamba.

    Args:
        depths: Blocks of each stage.
        dims: Channels of each stage.
        orders: For each block, the names of its scan orders, from :data:`backbones.ops.scan_orders.ORDERS`.
    """

    depths: Sequence[int]
    dims: Sequence[int]
    orders: Sequence[Sequence[str]]

    def __post_init__(self) -> None:
        check_stages(self.depths, self.dims)
        if min(self.dims) < 4:
            raise UserError(f'arch: dims={self.dims!r} must be at least 4, as the attention has a quarter of them')
        check_orders(self.orders, sum(self.depths))


@dataclasses.dataclass(frozen=True)
class VimArch:
    """One size of LocalVim.

    Args:
        dim: Channels, a multiple of 4.
        depth: Number of blocks.
        orders: For each block, the names of its scan orders, from :data:`backbones.ops.scan_orders.ORDERS`.
        rope: Whether rotary positions are applied before each block.
        patch_size: Height and width of a patch, in pixels.
    """

    dim: int
    depth: int
    orders: Sequence[Sequence[str]]
    rope: bool = True
    patch_size: int = 16

    def __post_init__(self) -> None:
        if min(self.dim, self.depth, self.patch_size) < 1:
            raise UserError(
                f'arch: dim={self.dim}, depth={self.depth} and patch_size={self.patch_size} must be at least 1'
            )
        if self.dim % 4:
            raise UserError(f'arch: dim={self.dim} must be a multiple of 4')
        check_orders(self.orders, self.depth)


VMAMBA_ARCHS = dict(  # paper, section 4.3, and the official repository
    tiny=VMambaArch((2, 2, 9, 2), (96, 192, 384, 768), LOCAL_VMAMBA_TINY),
    small=VMambaArch((2, 2, 27, 2), (96, 192, 384, 768), LOCAL_VMAMBA_SMALL),
)
VIM_ARCHS = dict(
    tiny=VimArch(192, 20, LOCAL_VIM),
    # the official file defines this size twice; Python keeps the second definition, without searched orders
    small=VimArch(384, 20, LOCAL_VIM_SMALL),
    small_searched=VimArch(384, 20, LOCAL_VIM),  # the first definition, also in the official dense configs
    tiny_without_rope=VimArch(192, 20, LOCAL_VIM, rope=False),  # of the weights with a class token in the middle
)


class MisplacedColumns(Lines):
    """Columns as the official code restores them: as if the sequence held rows.

    Only the cells of a square map come back to their places.
    """

    code = None

    def _restore(self, y: Tensor, height: int, width: int) -> Tensor:
        return y.unflatten(1, (height, width)).transpose(1, 2).flatten(1, 2).unflatten(1, (height, width))


def get_orders(names: Sequence[str], official_bug: bool) -> list[Order]:
    """Look up scan orders; with ``official_bug``, columns are restored as in the official code."""
    orders = [get_order(name) for name in names]
    columns = Lines(columns=True)
    wrong = {columns: MisplacedColumns(columns=True), columns.reversed: MisplacedColumns(columns=True, backward=True)}
    return [wrong.get(order, order) if official_bug else order for order in orders]


class AttendedS6(nn.Module):
    """Several S6, each with its own scan order, whose outputs one channel attention scales before they are summed.

    Args:
        channels: Channels of the maps ``(B, H, W, channels)``.
        rank: Width of the bottleneck before the step sizes.
        orders: Names of the scan orders.
        official_bug: Whether columns are restored as in the official code.
        implementation: Implementation of the scans, a key of :data:`backbones.ops.selective_scan.IMPLEMENTATIONS`.
    """

    def __init__(
        self, channels: int, rank: int, orders: Sequence[str], official_bug: bool, implementation: str = 'auto'
    ) -> None:
        super().__init__()
        self.maps = MapS6(channels, get_orders(orders, official_bug), rank=rank, implementation=implementation)
        self.attn = ChannelAttention(channels)

    def forward(self, x: Tensor) -> Tensor:
        return functools.reduce(torch.add, map(self.attn, self.maps.scans(x)))


class LocalVSSBlock(nn.Module):
    """``x + ss2d(norm(x))`` with the gate of VMamba's vanilla family, ``(B, H, W, dim)`` to the same shape."""

    def __init__(
        self, dim: int, orders: Sequence[str], official_bug: bool, drop_path: float = 0.0, implementation: str = 'auto'
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        s6 = AttendedS6(2 * dim, math.ceil(dim / 16), orders, official_bug, implementation)
        self.op = vmamba.SS2D(dim, 2 * dim, s6)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop_path(x, lambda x: self.op(self.norm(x)))


def vmamba_names(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert official weights of LocalVMamba to our names and shapes. Weights with our names stay as they are."""
    state = vmamba.our_names({k.replace('.op.multi_scan.', '.op.s6.'): v for k, v in state_dict.items()})
    return renamed(state, [(r'\.op\.s6\.(\d)', r'.op.s6.maps.\1')])


@MODELS.register_module()
class LocalVMamba(PyramidBackbone):
    """LocalVMamba as a four-stage backbone; the maps have the architecture's ``dims`` as channels.

    Args:
        arch: ``'tiny'`` or ``'small'``. A dict of :class:`VMambaArch`'s arguments describes another size.
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
        official_bug: Whether the outputs of column scans go to the cells where the official code puts them, which are
            the wrong ones unless a map is square. ``True`` gives the maps of the official detectors and segmentors. It
            makes no difference for the square images of the pretraining.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` loads pretrained weights from ``hf-hub:<repository>``, a
            URL or a file, and refuses weights that do not fit; ``None`` leaves the weights random.

    Raises:
        UserError: For an unknown ``arch``, or arguments that do not fit it.

    Example:
        >>> backbone = LocalVMamba('tiny')
        >>> [tuple(f.shape) for f in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 96, 16, 24), (1, 192, 8, 12), (1, 384, 4, 6), (1, 768, 2, 3)]
    """

    out_norm_eps = 1e-5  # PyTorch's default, as in all norms of LocalMamba
    convert_state_dict = staticmethod(vmamba_names)

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
        official_bug: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        arch = get_arch('LocalVMamba', arch, VMAMBA_ARCHS)
        rates = iter(drop_path_rates('LocalVMamba', drop_path_rate, sum(arch.depths)))
        orders, stages = iter(arch.orders), []
        for i, (depth, dim) in enumerate(zip(arch.depths, arch.dims, strict=True)):
            downsample = vmamba.PatchMerging(arch.dims[i - 1], dim) if i else nn.Identity()
            blocks = [LocalVSSBlock(dim, next(orders), official_bug, next(rates), selective_scan) for _ in range(depth)]
            stages.append(Stage(downsample, blocks))
        stem = vmamba.Stem(in_channels, arch.dims[0], vanilla=True)
        for module in (stem, *stages):
            init_layers(module, nn.Linear)
        super().__init__(stem, stages, arch.dims, out_indices, out_norm, frozen_stages, with_cp, init_cfg)


class MultiMamba(nn.Module):
    """LocalVim's mixer (paper, section 4.1), ``(B, H, W, dim)`` to the same shape.

    ``out_proj(sum over orders of attn(s6(u) * silu(z)))`` with ``u, z = in_proj(x)``. Each order reads ``u`` and ``z``
    and has a causal convolution and an S6 of its own; all share one channel attention. The zeros that complete windows
    are read like cells, and the bias of the convolution makes them inputs of the S6.

    Args:
        dim: Channels.
        orders: Scan orders.
        implementation: Implementation of the scans, a key of :data:`backbones.ops.selective_scan.IMPLEMENTATIONS`.
    """

    def __init__(self, dim: int, orders: Sequence[Order], implementation: str = 'auto') -> None:
        super().__init__()
        hidden = 2 * dim
        self.orders = orders
        self.in_proj = nn.Linear(dim, 2 * hidden, bias=False)
        self.s6 = nn.ModuleList(
            CausalConvS6(hidden, rank=math.ceil(dim / 16), implementation=implementation) for _ in orders
        )
        self.attn = ChannelAttention(hidden)
        self.out_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        u, z = self.in_proj(x).chunk(2, dim=-1)
        gate = F.silu(z)
        scans = (
            order.restore(s6(order.read(u)) * order.read(gate), *x.shape[1:3])
            for order, s6 in zip(self.orders, self.s6, strict=True)
        )
        y = functools.reduce(torch.add, map(self.attn, scans))
        return self.out_proj(y.to(self.out_proj.weight.dtype))


def rope_angles(grid: int, dim: int, **factory: object) -> Tensor:
    """Angles ``(grid, dim // 4)`` of EVA-02's rotary positions (arXiv 2303.11331) along one axis of a grid."""
    frequencies = 10000 ** (-torch.arange(0, dim // 2, 2, **factory) / (dim // 2))
    return torch.arange(grid, **factory)[:, None] * frequencies


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate each pair of adjacent channels of cells ``(B, H, W, dim)`` by its angle, of ``(H, W, dim // 2)``."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)


VIM_NAMES = (  # patterns of official names and ours
    (r'^layers\.', 'blocks.'),
    (r'\.mixer\.(conv1d|x_proj|dt_proj|A_log|D)_(\d)(?=\.|$)', r'.mixer.s6.\2.\1'),
    (r'\.conv1d\.', '.conv.'),
    (r'^outnorm_(\d)\.', r'out_norms.\1.'),
)


def vim_names(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert official weights of LocalVim to our names. Weights with our names stay as they are."""
    return renamed(state_dict, VIM_NAMES)


@MODELS.register_module()
class LocalVim(MambaBackbone):
    """LocalVim without a class token; all maps have the architecture's ``dim`` channels.

    Args:
        arch: ``'tiny'``; ``'small'``; ``'small_searched'``, with the orders that the search found for the tiny model;
            ``'tiny_without_rope'``, for the official weights with a class token. A dict of :class:`VimArch`'s arguments
            describes another size.
        in_channels: Channels of the images.
        out_indices: Quarters of the blocks whose feature maps are returned, in ascending order from 0. Later blocks are
            not built.
        out_norm: Whether each returned map goes through a LayerNorm of its own, as in the official segmentors.
        drop_path_rate: Probability that the mixer of the last block is skipped for a sample in training (stochastic
            depth). The probability grows linearly over the blocks, from 0 at the first.
        frozen_stages: -1 trains everything, 0 freezes patch embedding and positions, k also the first k quarters of
            the blocks. Output norms and rescaling layers are always trained.
        with_cp: Whether blocks are recomputed in the backward pass to save memory (activation checkpointing).
        strides: Strides of the four maps, in pixels. The official segmentors have (16, 16, 16, 16).
        use_residual_as_feature: Whether a map is the output of the last block of its quarter. Otherwise, it is the
            output of that block's mixer before the addition, as in the official segmentors and detectors.
        selective_scan: Implementation of the scans: ``'reference'`` steps through the sequence, ``'chunked'`` steps
            through many chunks at once, ``'triton'`` does so in Triton kernels on CUDA. ``'auto'`` is ``'triton'`` on
            CUDA and ``'chunked'`` elsewhere.
        official_bug: Whether the outputs of column scans go to the cells where the official code puts them, which are
            the wrong ones unless a map is square. ``True`` gives the maps of the official detectors and segmentors. It
            makes no difference for the square images of the pretraining.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` loads pretrained weights from ``hf-hub:<repository>``, a
            URL or a file, and refuses weights that do not fit; ``None`` leaves the weights random.

    Raises:
        UserError: For an unknown ``arch``, or arguments that do not fit it.

    Example:
        >>> backbone = LocalVim('tiny')
        >>> [tuple(f.shape) for f in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 192, 16, 24), (1, 192, 8, 12), (1, 192, 4, 6), (1, 192, 2, 3)]
    """

    out_norm_eps = 1e-5  # PyTorch's default, as in all norms of LocalMamba

    def __init__(
        self,
        arch: str | Mapping = 'tiny',
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm: bool = True,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        strides: Sequence[int] = STRIDES,
        use_residual_as_feature: bool = True,
        selective_scan: str = 'auto',
        official_bug: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        arch = get_arch('LocalVim', arch, VIM_ARCHS)
        rates = drop_path_rates('LocalVim', drop_path_rate, arch.depth)
        mixers = [MultiMamba(arch.dim, get_orders(names, official_bug), selective_scan) for names in arch.orders]
        super().__init__(
            in_channels,
            [MambaBlock(arch.dim, mixer, rate) for mixer, rate in zip(mixers, rates, strict=True)],
            arch.dim,
            arch.patch_size,
            use_residual_as_feature,
            out_indices=out_indices,
            out_norm=out_norm,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            init_cfg=init_cfg,
            strides=strides,
        )
        self.rope = arch.rope

    def convert_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return official weights under the names of this model, without class token and tables of rotary positions.

        Raises:
            UserError: If the weights were trained with rotary positions and the architecture has none, or the reverse,
                or if their rotary positions are others.
        """
        state = vim_names(state_dict)
        grid = math.isqrt(self.pos_embed.shape[1])
        for key, ours in zip(('rope.freqs_cos', 'rope.freqs_sin'), self._rotation(grid, grid), strict=True):
            if key not in state:
                continue
            if not self.rope:
                raise UserError(
                    'LocalVim: these weights were trained with rotary positions: set an arch with rope=True'
                )
            found, ours = state.pop(key), ours.flatten(0, 1).repeat_interleave(2, -1)
            if found.shape != ours.shape or not torch.allclose(found.to(ours), ours, atol=1e-3):
                raise UserError(f'LocalVim: {key} is not that of a grid of {grid}x{grid} patches')
        if self.rope and 'cls_token' in state:
            raise UserError(
                "LocalVim: these weights have a class token. Of LocalVim's weights, only those of "
                "local_vim_tiny_middle_cls_token.ckpt have one: they need arch='tiny_without_rope'"
            )
        return state | dict(pos_embed=patch_positions(state)) if 'pos_embed' in state else state

    def _rotation(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines ``(height, width, dim // 2)``, for the row in the first half and the column in the second.

        As in the official code, both are those of the pretraining's grid, interpolated like the learned positions.
        """
        with torch.autocast(self.pos_embed.device.type, enabled=False):
            rows, columns = self._interpolation(height), self._interpolation(width)
            like = dict(dtype=self.pos_embed.dtype, device=self.pos_embed.device)
            angles = rope_angles(rows.shape[1], self.pos_embed.shape[-1], **like)

            def table(values: Tensor) -> Tensor:
                down, across = (rows @ values)[:, None], (columns @ values)[None]
                return torch.cat((down.expand(-1, width, -1), across.expand(height, -1, -1)), -1)

            return table(angles.cos()), table(angles.sin())

    def _run_stage(self, blocks: Sequence[MambaBlock], x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.rope:
            return super()._run_stage(blocks, x)
        cos, sin = self._rotation(*x.shape[1:3])
        return super()._run_stage(blocks, x, functools.partial(rotate, cos=cos, sin=sin))
