"""MambaOut for mmsegmentation. A config needs one line:

    custom_imports = dict(imports=['mmseg_plugin'], allow_failed_imports=False)

The import adds ``DATASETS['CheckedADE20KDataset']``, ``DATASETS['FolderDataset']``, ``METRICS['DumpSegResults']`` and
``VISUALIZERS['ContiguousSegVisualizer']`` to what :mod:`mmengine_plugin` adds.
"""

from mmengine_plugin import config

from . import score_names  # noqa: F401  (imported for what it registers)
from .datasets import CheckedADE20KDataset, FolderDataset
from .dump_results import DumpSegResults
from .visualizer import ContiguousSegVisualizer

__all__ = ['CheckedADE20KDataset', 'ContiguousSegVisualizer', 'DumpSegResults', 'FolderDataset', 'config']
