"""Vim: Mamba blocks that read the patches of an image forwards and backwards (arXiv 2401.09417)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from mmengine.registry import MODELS
from timm.layers import PatchEmbed, drop_path, lecun_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from .base import IsotropicBackbone, RMSNorm, drop_path_rates, get_arch, run_blocks
from .drop_path import DropPath
from .errors import UserError
from .s6 import CausalConvS6
from .state_dicts import renamed


@dataclasses.dataclass(frozen=True)
class Arch:
    """One size of Vim.

    Args:
        dim: Channels.
        depth: Number of blocks.
        patch_size: Height and width of a patch, in pixels.
    """

    dim: int
    depth: int = 24
    patch_size: int = 16

    def __post_init__(self) -> None:
        if min(self.dim, self.depth, self.patch_size) < 1:
            raise UserError(
                f'arch: dim={self.dim}, depth={self.depth} and patch_size={self.patch_size} must be at least 1'
            )


ARCHS = dict(tiny=Arch(192), small=Arch(384), base=Arch(768))  # official repository, vim/models_mamba.py
PRETRAINING_SIZE = 224  # height and width of the pretraining images, in pixels


class BidirectionalMamba(nn.Module):
    """Vim's mixer (paper, Algorithm 1), ``(B, H, W, dim)`` to the same shape; cells are read row by row.

    With ``u, z = in_proj(x)``, it is ``out_proj((forward(u) + backward(u)) / 2 * silu(z))``. ``forward`` and
    ``backward`` are a causal convolution, SiLU and S6 each, with weights of their own; ``backward`` reads from the last
    cell to the first. The paper has the sum of both, the released models have the mean.

    Args:
        dim: Channels.
        implementation: Implementation of the scans, a key of :data:`backbones.ops.selective_scan.IMPLEMENTATIONS`.
    """

    def __init__(self, dim: int, implementation: str = 'auto') -> None:
        super().__init__()
        hidden = 2 * dim
        self.in_proj = nn.Linear(dim, 2 * hidden, bias=False)
        self.s6 = nn.ModuleList(
            CausalConvS6(hidden, rank=math.ceil(dim / 16), implementation=implementation) for _ in range(2)
        )
        self.out_proj = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        u, z = self.in_proj(x.flatten(1, 2)).chunk(2, dim=-1)
        ahead, back = self.s6
        y = (ahead(u) + back(u.flip(1)).flip(1)) / 2 * F.silu(z)
        return self.out_proj(y.to(self.out_proj.weight.dtype)).view(x.shape)


class MambaBlock(nn.Module):
    """``x + mixer(norm(x))`` with an RMSNorm, ``(B, H, W, dim)`` to the same shape.

    Args:
        dim: Channels.
        mixer: ``(B, H, W, dim)`` to the same shape, with a last layer ``out_proj``.
        drop_path: Probability that the mixer is skipped for a sample.
    """

    def __init__(self, dim: int, mixer: nn.Module, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm = RMSNorm(dim)
        self.mixer = mixer
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop_path(x, lambda x: self.mixer(self.norm(x)))

    def with_branch(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the block's output, and the mixer's output alone, which drop path leaves whole."""
        y = self.mixer(self.norm(x))
        return x + drop_path(y, self.drop_path.drop_prob, self.training), y


class MambaBackbone(IsotropicBackbone):
    """Patches and blocks of :class:`MambaBlock`, the body of Vim and LocalVim.

    Args:
        in_channels: Channels of the images.
        blocks: All blocks of the architecture.
        dim: Channels.
        patch_size: Height and width of a patch: 4, 8, 16 or 32 pixels.
        use_residual_as_feature: Whether a map is the output of a stage's last block. Otherwise, it is the output of
            that block's mixer, before the addition.
        **arguments: Further arguments of :class:`backbones.base.IsotropicBackbone`.
    """

    antialias = False  # as Vim and LocalVim interpolate positions

    def __init__(
        self,
        in_channels: int,
        blocks: Sequence[MambaBlock],
        dim: int,
        patch_size: int,
        use_residual_as_feature: bool = True,
        **arguments: object,
    ) -> None:
        patch_embed = PatchEmbed(None, patch_size, in_channels, dim, output_fmt='NHWC', dynamic_img_pad=True)
        lecun_normal_(patch_embed.proj.weight)  # as Vim and LocalVim initialise
        nn.init.zeros_(patch_embed.proj.bias)
        with torch.no_grad():
            for block in blocks:
                block.mixer.out_proj.weight /= math.sqrt(len(blocks))
        super().__init__(patch_embed, blocks, dim, patch_size, PRETRAINING_SIZE // patch_size, **arguments)
        self.use_residual_as_feature = use_residual_as_feature

    @property
    def allowed_unexpected_keys(self) -> tuple[str, ...]:
        """Prefixes of names that the backbone may lack, among them the class token and the classifier's norm."""
        return (*super().allowed_unexpected_keys, 'cls_token', 'norm_f.')

    def _run_stage(
        self, blocks: Sequence[MambaBlock], x: Tensor, turn: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Apply the blocks of a stage, each after ``turn``, and return the cells for the next stage and for the map."""
        *earlier, last = blocks
        steps = [*earlier, last if self.use_residual_as_feature else last.with_branch]
        if turn is not None:  # within the step, so that activation checkpointing keeps no other cells for it
            steps = [lambda x, step=step: step(turn(x)) for step in steps]
        found = run_blocks(steps, x, self.with_cp)
        return (found, found) if self.use_residual_as_feature else found


NAMES = (  # patterns of official names and ours
    (r'\.A_b_log$', '.A_log_b'),  # so that it ends like the others of the backward scan
    (r'\.mixer\.(conv1d|x_proj|dt_proj|A_log|D)_b\b', r'.mixer.s6.1.\1'),
    (r'\.mixer\.(conv1d|x_proj|dt_proj|A_log|D)\b', r'.mixer.s6.0.\1'),
    (r'\.conv1d\.', '.conv.'),
    (r'^layers\.', 'blocks.'),
)


def our_names(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert official names to ours. Weights with our names stay as they are."""
    return renamed(state_dict, NAMES)


def patch_positions(state_dict: Mapping[str, Tensor]) -> Tensor:
    """Positions ``(1, patches, dim)`` without those of class tokens.

    A class token stands in the middle of the patches, as in all released weights. Weights with two class tokens have
    one before the patches and one after them.
    """
    positions = state_dict['pos_embed']
    if 'cls_token_head' in state_dict:
        return positions[:, 1:-1]
    if 'cls_token' in state_dict:
        middle = (positions.shape[1] - 1) // 2
        return torch.cat((positions[:, :middle], positions[:, middle + 1 :]), 1)
    return positions


@MODELS.register_module()
class Vim(MambaBackbone):
    """Vim without its class token; all maps have the architecture's ``dim`` channels.

    Args:
        arch: ``'tiny'``, ``'small'`` or ``'base'``, or a dict of :class:`Arch`'s arguments.
        in_channels: Channels of the images.
        out_indices: Quarters of the blocks whose feature maps are returned, in ascending order from 0, at strides 4, 8,
            16 and 32. Later blocks are not built.
        out_norm: Whether each returned map goes through a LayerNorm of its own. The official segmentors have none.
        drop_path_rate: Probability that the mixer of the last block is skipped for a sample in training (stochastic
            depth). The probability grows linearly over the blocks, from 0 at the first.
        frozen_stages: -1 trains everything, 0 freezes patch embedding and positions, k also the first k quarters of
            the blocks. Output norms and rescaling layers are always trained.
        with_cp: Whether blocks are recomputed in the backward pass to save memory (activation checkpointing).
        use_residual_as_feature: Whether a map is the output of the last block of its quarter, as in the official small
            segmentor. Otherwise, it is the output of that block's mixer before the addition, as in the official tiny
            segmentor.
        selective_scan: Implementation of the scans: ``'reference'`` steps through the sequence, ``'chunked'`` steps
            through many chunks at once, ``'triton'`` does so in Triton kernels on CUDA. ``'auto'`` is ``'triton'`` on
            CUDA and ``'chunked'`` elsewhere.
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` loads pretrained weights from ``hf-hub:<repository>``, a
            URL or a file, and refuses weights that do not fit; ``None`` leaves the weights random. The official weights
            fit, except those fine-tuned with overlapping patches. The class token is dropped with its position, which
            is the middle one in all official weights.

    Raises:
        UserError: For an unknown ``arch``, or arguments that do not fit it.

    Example:
        >>> backbone = Vim('tiny')
        >>> [tuple(f.shape) for f in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 192, 16, 24), (1, 192, 8, 12), (1, 192, 4, 6), (1, 192, 2, 3)]
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
        use_residual_as_feature: bool = True,
        selective_scan: str = 'auto',
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        arch = get_arch('Vim', arch, ARCHS)
        super().__init__(
            in_channels,
            [
                MambaBlock(arch.dim, BidirectionalMamba(arch.dim, selective_scan), rate)
                for rate in drop_path_rates('Vim', drop_path_rate, arch.depth)
            ],
            arch.dim,
            arch.patch_size,
            use_residual_as_feature,
            out_indices=out_indices,
            out_norm=out_norm,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )

    def convert_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return official weights under the names of this model, without the positions of class tokens."""
        state = our_names(state_dict)
        return state | dict(pos_embed=patch_positions(state)) if 'pos_embed' in state else state
