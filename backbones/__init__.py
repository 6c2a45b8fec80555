"""Backbones for dense prediction: torch, timm and mmengine; nothing of mmdet or mmsegmentation."""

from .errors import UserError
from .mambaout import MambaOut, MambaOutClassifier
from .vit import ViT
from .vmamba import VMamba

__all__ = ['MambaOut', 'MambaOutClassifier', 'UserError', 'VMamba', 'ViT']
