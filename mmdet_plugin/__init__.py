"""MambaOut for mmdet, by one line in a config:

    custom_imports = dict(imports=['mmdet_plugin'], allow_failed_imports=False)

Besides what :mod:`mmengine_plugin` lists, importing it adds ``DATASETS['CheckedCocoDataset']`` and
``METRICS['FastCocoMetric']``.
"""

from mmengine_plugin import config

from .coco import CheckedCocoDataset
from .metric import FastCocoMetric

__all__ = ['CheckedCocoDataset', 'FastCocoMetric', 'config']
