"""MambaOut for mmsegmentation, by one line in a config:

    custom_imports = dict(imports=['mmseg_plugin'], allow_failed_imports=False)

Besides what :mod:`mmengine_plugin` lists, importing it adds ``DATASETS['CheckedADE20KDataset']`` and
``VISUALIZERS['ContiguousSegVisualizer']``.
"""

from mmengine_plugin import config

from .ade20k import CheckedADE20KDataset
from .visualizer import ContiguousSegVisualizer

__all__ = ['CheckedADE20KDataset', 'ContiguousSegVisualizer', 'config']
