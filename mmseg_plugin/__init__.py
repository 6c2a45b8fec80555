"""MambaOut for mmsegmentation, by one line in a config:

    custom_imports = dict(imports=['mmseg_plugin'], allow_failed_imports=False)

Besides what :mod:`mmengine_plugin` lists, importing it adds ``DATASETS['CheckedADE20KDataset']``,
``DATASETS['FolderDataset']`` and ``VISUALIZERS['ContiguousSegVisualizer']``.
"""

from mmengine_plugin import config

from .datasets import CheckedADE20KDataset, FolderDataset
from .visualizer import ContiguousSegVisualizer

__all__ = ['CheckedADE20KDataset', 'ContiguousSegVisualizer', 'FolderDataset', 'config']
