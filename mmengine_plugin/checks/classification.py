"""Whether the data of an image classifier fit its labels and its loss."""

from __future__ import annotations

import inspect

from timm.data import Mixup

from backbones.errors import UserError, did_you_mean

from .class_lists import class_tuple, first_difference
from .pipelines import type_name
from .run_part import RunPart

MODES = ('batch', 'pair', 'elem')  # of timm's mixup; 'half' would give half of the images
NUMBERS = ('mixup_alpha', 'cutmix_alpha', 'prob', 'switch_prob', 'label_smoothing')
SOFT = ('SoftTargetCrossEntropy', 'BinaryCrossEntropy')  # losses that take soft labels


def check_num_labels(part: RunPart) -> None:
    """Check that a classifier has as many classes as its data.

    Raises:
        UserError: If it has not: the indices of the labels would then mean other classes.
    """
    classes = class_tuple(getattr(part.dataset, 'metainfo', None))
    if type(part.model).__name__ != 'ImageClassifier' or classes is None:
        return
    if len(classes) != part.model.num_classes:
        raise UserError(
            f'model.num_classes is {part.model.num_classes}, but {part.split}_dataloader.dataset has {len(classes)} '
            f'classes ({", ".join(classes[:5])}{", ..." if len(classes) > 5 else ""}): set '
            f'model.num_classes={len(classes)}, or add the folders of the classes that lack images'
        )


def check_same_labels(training: RunPart, validation: RunPart) -> None:
    """Check that a classifier is validated on the classes that it is trained on, in their order.

    Raises:
        UserError: If it is not; the message names the first class that differs.
    """
    lists = [class_tuple(getattr(part.dataset, 'metainfo', None)) for part in (training, validation)]
    if type(training.model).__name__ != 'ImageClassifier' or None in lists:
        return
    if difference := first_difference(*lists):
        raise UserError(
            f'val_dataloader.dataset has other classes than train_dataloader.dataset: {difference}. The folders of '
            'classes must have the same names in both'
        )


def check_mixing_of_labels(part: RunPart) -> None:
    """Check that mixup and CutMix fit the batches, the classes and the loss of a classifier.

    Raises:
        UserError: If they do not; the message has the setting to change.
    """
    loader = part.cfg.get('train_dataloader') or {}
    collate = loader.get('collate_fn') or {}
    if type(part.model).__name__ != 'ImageClassifier' or type_name(collate) != 'collate_images':
        return
    mixup, loss = collate.get('mixup'), type(part.model.loss).__name__
    if not mixup and loss in SOFT[:1] or mixup and loss not in SOFT:
        raise UserError(
            f'model.loss.type={loss} does not fit train_dataloader.collate_fn: mixed images have soft labels and need '
            'SoftTargetCrossEntropy or BinaryCrossEntropy; without mixup, set LabelSmoothingCrossEntropy'
        )
    if not mixup:
        return
    known = inspect.signature(Mixup).parameters
    for key, value in mixup.items():
        setting = f'train_dataloader.collate_fn.mixup.{key}'
        if key not in known:
            raise UserError(f'{setting} is no argument of timm{did_you_mean(key, known)}')
        if key == 'mode' and value not in MODES:
            raise UserError(f'{setting} is {value!r}: set {", ".join(MODES[:-1])} or {MODES[-1]}')
        if key in NUMBERS and (not isinstance(value, int | float) or value < 0):
            raise UserError(f'{setting} is {value!r}: set a number from 0')
    classes = mixup.get('num_classes', 1000)
    if classes != part.model.num_classes:
        raise UserError(
            f'train_dataloader.collate_fn.mixup.num_classes is {classes}, but model.num_classes is '
            f'{part.model.num_classes}: set both to the same number'
        )
    images = len(part.loop.dataloader.batch_sampler.sampler)
    if part.batch_size % 2 or not loader.get('drop_last') and images % part.batch_size % 2:
        raise UserError(
            f'train_dataloader.collate_fn mixes pairs of images, but of {images} images of a process, a batch of '
            f'train_dataloader.batch_size={part.batch_size} has an odd number: set an even batch_size, and '
            'train_dataloader.drop_last=True'
        )
