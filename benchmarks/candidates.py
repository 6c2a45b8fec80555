"""The backbones that are measured side by side."""

from __future__ import annotations

from importlib.util import find_spec
from unittest.mock import patch

import timm
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn

from backbones.mambaout import ARCHS, MambaOut
from mmengine_plugin import config

from .measuring import CUDA, DEVICE

COMPILED = ', compiled'  # at the end of a candidate's name
PLAIN = 'timm', 'ours, eager'  # candidates that run PyTorch's operators one by one
FASTEST = 'ours, triton' if CUDA else 'ours, fused'  # of ours


@MODELS.register_module()
class TimmBackbone(BaseModule):
    """timm's MambaOut with its maps in the layout that heads expect, much as OpenMMLab's ``TIMMBackbone`` wraps it."""

    def __init__(self, arch: str, drop_path_rate: float = 0.0, init_cfg: None = None) -> None:
        super().__init__()
        self.model = timm.create_model(arch, features_only=True, drop_path_rate=drop_path_rate)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images ``(B, 3, H, W)`` to maps ``(B, C, H, W)``."""
        return tuple(x.permute(0, 3, 1, 2).contiguous() for x in self.model(x))


@MODELS.register_module()
class UnalignedMambaOut(MambaOut):
    """Our MambaOut with kernels that take the published number of hidden channels, not the next multiple of 8."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images ``(B, 3, H, W)`` to maps ``(B, C, H, W)``."""
        from backbones.ops import gated_cnn_triton  # Triton is installed only where CUDA may be

        with patch.object(gated_cnn_triton, 'CHANNEL_MULTIPLE', 1):
            return super().forward(x)


def mambaout_candidates(arch: str) -> dict[str, dict]:
    """Configs of backbones that compute the same function, by their names in the table; timm's is the first."""
    found = {'timm': dict(type='TimmBackbone', arch=f'mambaout_{arch}')}
    for implementation in ('eager', 'fused', 'triton') if CUDA else ('eager', 'fused'):
        found[f'ours, {implementation}'] = dict(type='MambaOut', arch=arch, out_norm=False, gated_cnn=implementation)
    if CUDA:
        # each takes a minute to compile, so 'eager', which is compiled to about the same as timm's, is left out; for a
        # CPU, torch.compile needs a C++ compiler
        found |= {f'{name}{COMPILED}': dict(found[name]) for name in ('timm', 'ours, triton')}
        from backbones.ops.gated_cnn_triton import CHANNEL_MULTIPLE  # Triton is installed only where CUDA may be

        size = ARCHS[arch]
        if any(int(size.expansion_ratio * dim) % CHANNEL_MULTIPLE for dim in size.dims):
            found['ours, triton, unaligned'] = dict(found['ours, triton'], type='UnalignedMambaOut')
    return found


def drop_path_candidates(arch: str) -> dict[str, dict]:
    """Configs of timm's backbone and of our fastest one, both with the drop path rate of the detector's recipe."""
    candidates = mambaout_candidates(arch)
    rate = Config.fromfile(config(f'mask_rcnn_mambaout_{arch}')).model.backbone.drop_path_rate
    return {name: candidates[name] | dict(drop_path_rate=rate) for name in ('timm', FASTEST)}


def other_candidates() -> dict[str, tuple[dict, list[int]]]:
    """Configs and output channels of other backbones that are about as large as MambaOut tiny."""
    swin = dict(type='SwinTransformer', embed_dims=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24])
    found = {'Swin-T': (swin, [96, 192, 384, 768])}
    if find_spec('mmpretrain'):
        convnext = dict(type='mmpretrain.ConvNeXt', arch='tiny', out_indices=[0, 1, 2, 3], gap_before_final_norm=False)
        found['ConvNeXt-T'] = (convnext, [96, 192, 384, 768])
    return found


def build(candidate: str, cfg: dict) -> nn.Module:
    """Build a backbone, or a whole model, on the device; the backbone is compiled if the candidate's name says so."""
    model = MODELS.build(cfg).to(DEVICE)
    if candidate.endswith(COMPILED):
        getattr(model, 'backbone', model).compile()
    return model
