"""ViT with attention over all patches, or causally over earlier patches (arXiv 2010.11929; MambaOut, Figure 3).

Parameter names are timm's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial

from mmengine.registry import MODELS
from timm.layers import PatchEmbed, trunc_normal_
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from .base import LN_EPS, IsotropicBackbone, drop_path_rates, get_arch
from .drop_path import DropPath
from .errors import UserError


@dataclasses.dataclass(frozen=True)
class Arch:
    """One size of ViT.

    Args:
        dim: Channels.
        depth: Number of blocks.
        heads: Number of attention heads, each ``dim / heads`` wide.
        mlp_ratio: Hidden width of the MLP, relative to ``dim``.
        patch_size: Height and width of a patch, in pixels.
    """

    dim: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    patch_size: int = 16

    def __post_init__(self) -> None:
        if min(self.dim, self.depth, self.heads, self.patch_size) < 1:
            raise UserError(f'arch: {self} has a number below 1')
        if self.dim % self.heads:
            raise UserError(f'arch: dim={self.dim} must be a multiple of heads={self.heads}')


ARCHS = dict(small=Arch(384, 12, 6), base=Arch(768, 12, 12))  # DeiT (arXiv 2012.12877), Table 1
PRETRAINING_SIZE = 224  # height and width of the pretraining images, in pixels


class TransformerBlock(Block):
    """timm's Transformer block for cells ``(B, H, W, C)``, which it reads row by row.

    Args:
        arch: Channels, heads and MLP ratio.
        causal: Whether cell t attends to cells i <= t only (MambaOut, Eq. 5) instead of to all cells (Eq. 4).
        drop_path: Probability that a branch is skipped for a sample.
    """

    def __init__(self, arch: Arch, causal: bool, drop_path: float) -> None:
        norm = partial(nn.LayerNorm, eps=LN_EPS)
        super().__init__(arch.dim, arch.heads, arch.mlp_ratio, qkv_bias=True, norm_layer=norm)
        self.drop_path1, self.drop_path2 = DropPath(drop_path), DropPath(drop_path)
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, 2)
        tokens = self.drop_path1(tokens, lambda x: self.attn(self.norm1(x), is_causal=self.causal))
        return self.drop_path2(tokens, lambda x: self.mlp(self.norm2(x))).view(x.shape)


@MODELS.register_module()
class ViT(IsotropicBackbone):
    """A plain Vision Transformer without a class token; all maps have the architecture's ``dim`` channels.

    Attention is PyTorch's ``scaled_dot_product_attention``; its memory grows linearly with the number of patches.

    Args:
        arch: ``'small'`` or ``'base'``, or a dict of :class:`Arch`'s arguments.
        causal: Whether each patch attends only to itself and to earlier patches, row by row, like the state of an RNN.
        in_channels: Channels of the images.
        out_indices: Quarters of the blocks whose feature maps are returned, in ascending order from 0, at strides 4, 8,
            16 and 32. Later blocks are not built.
        out_norm: Whether each returned map goes through a LayerNorm of its own.
        drop_path_rate: Probability that a branch of the last block is skipped for a sample in training (stochastic
            depth). The probability grows linearly over the blocks, from 0 at the first.
        frozen_stages: -1 trains everything, 0 freezes patch embedding and positions, k also the first k quarters of
            the blocks. Output norms and rescaling layers are always trained.
        with_cp: Whether blocks are recomputed in the backward pass to save memory (activation checkpointing).
        init_cfg: ``dict(type='Pretrained', checkpoint=...)`` loads pretrained weights from ``hf-hub:<repository>``, a
            URL or a file, and refuses weights that do not fit; ``None`` leaves the weights random. timm's weights,
            with or without a class token, fit both kinds of attention.

    Raises:
        UserError: For an unknown ``arch``, or arguments that do not fit it.

    Example:
        >>> backbone = ViT('small', causal=True)
        >>> [tuple(f.shape) for f in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 384, 16, 24), (1, 384, 8, 12), (1, 384, 4, 6), (1, 384, 2, 3)]
    """

    def __init__(
        self,
        arch: str | Mapping = 'small',
        causal: bool = False,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        out_norm: bool = True,
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        with_cp: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        arch = get_arch('ViT', arch, ARCHS)
        dim, patch_size = arch.dim, arch.patch_size
        blocks = [TransformerBlock(arch, causal, rate) for rate in drop_path_rates('ViT', drop_path_rate, arch.depth)]
        for module in (m for block in blocks for m in block.modules()):
            if isinstance(module, nn.Linear):  # as timm initialises
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        super().__init__(
            PatchEmbed(None, patch_size, in_channels, dim, output_fmt='NHWC', dynamic_img_pad=True),
            blocks,
            dim,
            patch_size,
            PRETRAINING_SIZE // patch_size,
            out_indices,
            out_norm,
            frozen_stages,
            with_cp,
            init_cfg,
        )

    @property
    def allowed_unexpected_keys(self) -> tuple[str, ...]:
        """Prefixes of names that the backbone may lack, among them the class token and the classifier's norm."""
        return (*super().allowed_unexpected_keys, 'cls_token', 'norm.')

    def convert_state_dict(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Drop the first position of timm's weights if it belongs to a class token; timm's names are also ours."""
        tokens = int('cls_token' in state_dict)
        return {k: v[:, tokens:] if k == 'pos_embed' else v for k, v in state_dict.items()}
