"""ImageNet classification: the backbones with timm's data sets, transforms, mixing and losses, trained by a Runner.

Importing this package imports ``mmengine_plugin`` and adds these entries and no others:

- ``MODELS['ImageClassifier']``, ``['ImagePreprocessor']``: a backbone with a classification head, and the last steps of
  timm's input pipeline, on the device (:mod:`timm_plugin.classifier`, :mod:`timm_plugin.preprocessor`)
- ``MODELS['SoftTargetCrossEntropy']``, ``['LabelSmoothingCrossEntropy']``, ``['BinaryCrossEntropy']``: timm's losses
- ``DATASETS['TimmDataset']``: a folder of classes, a tar or a Hugging Face data set (:mod:`timm_plugin.dataset`)
- ``FUNCTIONS['collate_images']``: forms a batch, with mixup and CutMix (:mod:`timm_plugin.collate`)
- ``DATA_SAMPLERS['RepeatedAugSampler']``: timm's sampler of repeated augmentation (:mod:`timm_plugin.sampler`)
- ``PARAM_SCHEDULERS['TimmCosineLR']``: timm's cosine by epochs (:mod:`timm_plugin.schedule`)
- ``METRICS['TopKAccuracy']``: top-1 and top-5 accuracy (:mod:`timm_plugin.accuracy`)
- ``timm.data.auto_augment.NAME_TO_OP['Posterize...']``: also with Pillow 13 (:mod:`timm_plugin.posterize`)
"""

import mmengine_plugin

from . import accuracy, classifier, collate, dataset, posterize, preprocessor, sampler, schedule  # noqa: F401

config = mmengine_plugin.config

__all__ = ['config']
