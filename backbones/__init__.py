"""Backbones for dense prediction, which need torch, timm and mmengine but neither mmdet nor mmsegmentation."""

from .efficient_vmamba import EfficientVMamba
from .errors import UserError
from .local_mamba import LocalVim, LocalVMamba
from .mambaout import MambaOut
from .plain_mamba import PlainMamba
from .s4nd import S4NDConvNeXt
from .vim import Vim
from .vit import ViT
from .vmamba import VMamba

__all__ = [
    'EfficientVMamba',
    'LocalVMamba',
    'LocalVim',
    'MambaOut',
    'PlainMamba',
    'S4NDConvNeXt',
    'UserError',
    'VMamba',
    'ViT',
    'Vim',
]
