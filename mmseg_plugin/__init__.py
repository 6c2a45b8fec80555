"""MambaOut for mmsegmentation. A config needs one line:

    custom_imports = dict(imports=['mmseg_plugin'], allow_failed_imports=False)

The import adds these entries to those of :mod:`mmengine_plugin`:

- ``DATASETS['CheckedADE20KDataset']``, ``DATASETS['FolderDataset']`` (:mod:`~mmseg_plugin.data.datasets`)
- ``MODELS['WeightedCrossEntropyLoss']``, ``MODELS['MaskedDiceLoss']``, ``MODELS['PortableFocalLoss']``
  (:mod:`~mmseg_plugin.losses`)
- ``METRICS['CheckedIoUMetric']`` (:mod:`~mmseg_plugin.scores.iou_metric`)
- ``METRICS['DumpSegResults']`` (:mod:`~mmseg_plugin.scores.dump_results`)
- ``VISUALIZERS['ContiguousSegVisualizer']`` (:mod:`~mmseg_plugin.visualizer`)
"""

from mmengine_plugin import config

from .data.datasets import CheckedADE20KDataset, FolderDataset
from .losses import MaskedDiceLoss, PortableFocalLoss, WeightedCrossEntropyLoss
from .scores import score_names  # noqa: F401  (imported for what it registers)
from .scores.dump_results import DumpSegResults
from .scores.iou_metric import CheckedIoUMetric
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
