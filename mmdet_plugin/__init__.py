"""MambaOut for mmdet. A config needs one line:

    custom_imports = dict(imports=['mmdet_plugin'], allow_failed_imports=False)

The import adds ``DATASETS['CheckedCocoDataset']``, ``METRICS['FastCocoMetric']`` and
``MODELS['MultiChannelDetDataPreprocessor']`` to what :mod:`mmengine_plugin` adds.
"""

from mmengine_plugin import config

from .data.data_preprocessor import MultiChannelDetDataPreprocessor
from .data.datasets import CheckedCocoDataset
from .scores import class_order, metric_checks, score_names  # noqa: F401  (imported for what they register)
from .scores.coco_metric import FastCocoMetric

__all__ = ['CheckedCocoDataset', 'FastCocoMetric', 'MultiChannelDetDataPreprocessor', 'config']
