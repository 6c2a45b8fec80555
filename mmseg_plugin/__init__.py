"""MambaOut for mmsegmentation. A config needs one line:

    custom_imports = dict(imports=['mmseg_plugin'], allow_failed_imports=False)

The import adds these entries to those of :mod:`mmengine_plugin`:

- ``DATASETS['CheckedADE20KDataset']``, ``DATASETS['FolderDataset']`` (:mod:`~mmseg_plugin.datasets`)
- ``MODELS['WeightedCrossEntropyLoss']``, ``MODELS['MaskedDiceLoss']``, ``MODELS['PortableFocalLoss']``
  (:mod:`~mmseg_plugin.losses`)
- ``METRICS['CheckedIoUMetric']`` (:mod:`~mmseg_plugin.iou_metric`)
- ``METRICS['DumpSegResults']`` (:mod:`~mmseg_plugin.dump_results`)
- ``VISUALIZERS['ContiguousSegVisualizer']`` (:mod:`~mmseg_plugin.visualizer`)
"""

from mmengine_plugin import config

from . import score_names  # noqa: F401  (imported for what it registers)
from .datasets import CheckedADE20KDataset, FolderDataset
from .dump_results import DumpSegResults
from .iou_metric import CheckedIoUMetric
from .losses import MaskedDiceLoss, PortableFocalLoss, WeightedCrossEntropyLoss
from .visualizer import ContiguousSegVisualizer

__all__ = [
    'CheckedADE20KDataset',
    'CheckedIoUMetric',
    'ContiguousSegVisualizer',
    'DumpSegResults',
    'FolderDataset',
    'MaskedDiceLoss',
    'PortableFocalLoss',
    'WeightedCrossEntropyLoss',
    'config',
]
