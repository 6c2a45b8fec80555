"""Backbones for dense prediction, which need torch, timm and mmengine but neither mmdet nor mmsegmentation."""

from .errors import UserError
from .mambaout import MambaOut, MambaOutClassifier
from .vit import ViT
from .vmamba import VMamba

__all__ = ['MambaOut', 'MambaOutClassifier', 'UserError', 'VMamba', 'ViT']
