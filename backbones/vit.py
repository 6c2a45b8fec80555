"""ViT: attention over all patches, or only over those before each (arXiv 2010.11929; MambaOut, Figure 3).

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
from .errors import UserError


@dataclasses.dataclass(frozen=True)
class Arch:
    """One size of ViT.

    Args:
        dim: Channels.
        depth: Blocks.
        heads: Of the attention, each ``dim / heads`` wide.
        mlp_ratio: Hidden width of the MLP over ``dim``.
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
PRETRAINING = 224  # pixels, of the images that positions are learned on


class TransformerBlock(Block):
    """timm's, on cells ``(B, H, W, C)``, which it reads row by row.

    Args:
        causal: Cell t takes from cells i <= t alone (MambaOut, Eq. 5) instead of from all (Eq. 4).
    """

    def __init__(self, arch: Arch, causal: bool, drop_path: float) -> None:
        norm = partial(nn.LayerNorm, eps=LN_EPS)
        super().__init__(arch.dim, arch.heads, arch.mlp_ratio, qkv_bias=True, drop_path=drop_path, norm_layer=norm)
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1, 2), is_causal=self.causal).view(x.shape)


@MODELS.register_module()
class ViT(IsotropicBackbone):
    """A plain Vision Transformer without a class token; all maps have the architecture's ``dim`` channels.

    Attention is PyTorch's ``scaled_dot_product_attention``, whose memory grows linearly with the number of patches.

    Args:
        arch: ``'small'`` or ``'base'``, or a dict of :class:`Arch`'s arguments.
        causal: Each patch sees only itself and those before it, row by row, as the state of an RNN does.
        in_channels: Channels of the images.
        out_indices: See :class:`backbones.base.IsotropicBackbone`, like the arguments below.
        out_norm: A LayerNorm on each map.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 over all blocks.
        frozen_stages: How much is frozen.
        with_cp: Trade compute for memory.
        init_cfg: Where weights come from. timm's, with a class token or without, fit both kinds of attention.

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
            PRETRAINING // patch_size,
            out_indices,
            out_norm,
            frozen_stages,
            with_cp,
            init_cfg,
        )

    @property
    def unbuilt(self) -> tuple[str, ...]:
        """See :class:`backbones.base.Backbone`; maps are taken before the norm of the classifier."""
        return (*super().unbuilt, 'cls_token', 'norm.')

    def rename(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """timm's names are ours; the class token's position, the first, is left out."""
        tokens = int('cls_token' in state_dict)
        return {k: v[:, tokens:] if k == 'pos_embed' else v for k, v in state_dict.items()}
