"""MambaOut for mmdet. A config needs one line:

    custom_imports = dict(imports=['mmdet_plugin'], allow_failed_imports=False)

The import adds ``DATASETS['CheckedCocoDataset']`` and ``METRICS['FastCocoMetric']`` to what :mod:`mmengine_plugin`
adds.
"""

from mmengine_plugin import config

from . import score_names  # noqa: F401  (imported for what it registers)
from .coco_metric import FastCocoMetric
from .datasets import CheckedCocoDataset

__all__ = ['CheckedCocoDataset', 'FastCocoMetric', 'config']
