"""MambaOut for mmdet, by one line in a config:

    custom_imports = dict(imports=['mmdet_plugin'], allow_failed_imports=False)

Besides what :mod:`mmengine_plugin` lists, importing it adds ``DATASETS['CheckedCocoDataset']``.
"""

from mmengine_plugin import config

from .coco import CheckedCocoDataset

__all__ = ['CheckedCocoDataset', 'config']
