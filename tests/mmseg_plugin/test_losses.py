"""Losses of segmentation leave ignored pixels out, and are mmseg's where mmseg is right."""

from __future__ import annotations

from argparse import Namespace

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.logging import MMLogger
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from mmengine_plugin.cli.configs import load_run
from mmengine_plugin.cli.segmentation_losses import mend_losses
from mmseg_plugin.losses import (
    CrossEntropyLoss,
    DiceLoss,
    FocalLoss,
    MaskedDiceLoss,
    PortableFocalLoss,
    WeightedCrossEntropyLoss,
)
from tests.conftest import SEGMENTATION

CLASSES = 3
WEIGHTS = [0.5, 1.0, 4.0]


def batch(ignored: bool) -> tuple[Tensor, Tensor]:
    """Logits and labels of two images of 6x8 pixels; the right half of the labels is 255 if ``ignored``."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, CLASSES, 6, 8, generator=generator, requires_grad=True)
    labels = torch.randint(0, CLASSES, (2, 6, 8), generator=generator)
    if ignored:
        labels[..., 4:] = 255
    return logits, labels


@pytest.mark.parametrize('ignored', [False, True])
def test_the_weighted_cross_entropy_is_pytorchs(ignored):
    logits, labels = batch(ignored)
    loss = WeightedCrossEntropyLoss(class_weight=WEIGHTS)(logits, labels, ignore_index=255)
    expected = F.cross_entropy(logits, labels, weight=torch.tensor(WEIGHTS), ignore_index=255)
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert (gradient[..., 4:] == 0).all() == ignored


def test_the_weighted_cross_entropy_is_mmsegs_without_ignored_pixels_and_mmsegs_fails_with_them():
    logits, labels = batch(ignored=False)
    pixels = torch.rand(2, 6, 8, generator=torch.Generator().manual_seed(1))
    for settings in (dict(class_weight=WEIGHTS), dict(class_weight=WEIGHTS, reduction='sum'), dict()):
        losses = [
            kind(**settings)(logits, labels, weight=pixels) for kind in (WeightedCrossEntropyLoss, CrossEntropyLoss)
        ]
        assert losses[0] == losses[1]
    logits, labels = batch(ignored=True)
    with pytest.raises(IndexError):
        CrossEntropyLoss(class_weight=WEIGHTS)(logits, labels, ignore_index=255)


def test_the_weighted_cross_entropy_of_ignored_pixels_alone_is_0():
    logits, labels = batch(ignored=True)
    loss = WeightedCrossEntropyLoss(class_weight=WEIGHTS)(logits, torch.full_like(labels, 255), ignore_index=255)
    assert loss == 0


@pytest.mark.parametrize('settings', [dict(), dict(use_sigmoid=False), dict(naive_dice=True), dict(reduction='none')])
def test_the_masked_dice_loss_is_that_of_the_labelled_part_alone_and_mmsegs_is_not(settings):
    logits, labels = batch(ignored=True)
    loss = MaskedDiceLoss(**settings)(logits, labels, ignore_index=255)
    expected = DiceLoss(**settings)(logits[..., :4], labels[..., :4])
    torch.testing.assert_close(loss, expected)
    assert (DiceLoss(**settings)(logits, labels, ignore_index=255) > expected + 0.05).all()
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert (gradient[..., 4:] == 0).all() and (gradient[..., :4] != 0).all()


def test_the_only_channel_of_a_dice_loss_is_class_1():
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    labels[..., :2] = 1
    right = torch.where(labels == 1, 9.0, -9.0).unsqueeze(1)
    assert MaskedDiceLoss()(right, labels) < 0.01
    assert MaskedDiceLoss()(-right, labels) > 0.9
    assert DiceLoss()(right, labels) > 0.9  # mmseg's has it the other way round


@pytest.mark.parametrize('channels', [1, CLASSES])
def test_the_focal_loss_on_a_cpu_is_that_of_the_paper_without_ignored_pixels(channels):
    logits, labels = batch(ignored=True)
    logits = logits[:, :channels]
    labels[labels >= max(channels, 2)] = 255
    loss = PortableFocalLoss(alpha=0.25, reduction='none')(logits, labels, ignore_index=255)
    for channel in range(channels):
        truth = (labels == (1 if channels == 1 else channel)).float()
        expected = sigmoid_focal_loss(logits[:, channel], truth, alpha=0.25, gamma=2.0)
        torch.testing.assert_close(loss[:, channel], expected * (labels != 255))
    mean = PortableFocalLoss(alpha=0.25)(logits, labels, ignore_index=255)
    torch.testing.assert_close(mean, loss.mean())
    with pytest.raises((RuntimeError, ValueError)):
        FocalLoss(alpha=0.25)(logits, labels, ignore_index=255)


def config(*losses: dict, scope: str = 'mmseg') -> Config:
    heads = [dict(loss_decode=loss) for loss in losses]
    return Config(dict(default_scope=scope, model=dict(decode_head=heads[0], auxiliary_head=heads[1:])))


def test_losses_that_fail_are_replaced_wherever_they_are_in_a_segmentor():
    weighted = dict(type='CrossEntropyLoss', class_weight=WEIGHTS, loss_weight=0.4)
    cfg = config([weighted, dict(type='DiceLoss')], dict(type='FocalLoss', gamma=1.0))
    mend_losses(cfg)
    assert cfg.model.decode_head.loss_decode[0] == weighted | dict(type='WeightedCrossEntropyLoss')
    assert cfg.model.decode_head.loss_decode[1] == dict(type='DiceLoss')
    assert cfg.model.auxiliary_head[0].loss_decode == dict(type='PortableFocalLoss', gamma=1.0)


def test_a_run_trains_with_the_losses_that_do_not_fail(tmp_path):
    (tmp_path / 'weighted.py').write_text(
        f"_base_ = '{SEGMENTATION}'\nmodel = dict(decode_head=dict(loss_decode=dict(class_weight=[1.0] * 150)))\n"
    )
    arguments = dict(config=str(tmp_path / 'weighted.py'), cfg_options={}, work_dir=str(tmp_path / 'w'))
    model = load_run(Namespace(**arguments, launcher='none', trust_checkpoint=False)).model
    assert model.decode_head.loss_decode.type == 'WeightedCrossEntropyLoss'
    assert model.auxiliary_head.loss_decode.type == 'CrossEntropyLoss'


def test_a_dice_loss_that_counts_ignored_pixels_is_reported_with_its_key_and_stays(monkeypatch):
    printed = []
    monkeypatch.setattr(MMLogger, 'handle', lambda self, record: printed.append(record.getMessage()))
    mend_losses(config(dict(type='MaskedDiceLoss')))
    mend_losses(config(dict(type='DiceLoss', ignore_index=None)))  # as in SAN, which has masks without ignored pixels
    assert printed == []
    cfg = config([dict(type='CrossEntropyLoss'), dict(type='DiceLoss', loss_weight=3.0)])
    mend_losses(cfg)
    assert cfg.model.decode_head.loss_decode[1] == dict(type='DiceLoss', loss_weight=3.0)
    (line,) = printed
    assert 'counts ignored pixels' in line
    assert "set model.decode_head.loss_decode.1.type='MaskedDiceLoss'" in line


@pytest.mark.parametrize(
    ('loss', 'scope'),
    [
        (dict(type='CrossEntropyLoss'), 'mmseg'),
        (dict(type='CrossEntropyLoss', class_weight=WEIGHTS, use_sigmoid=True), 'mmseg'),
        (dict(type='mmdet.CrossEntropyLoss', class_weight=WEIGHTS), 'mmseg'),
        (dict(type='CrossEntropyLoss', class_weight=WEIGHTS), 'mmdet'),
        (dict(type='FocalLoss'), 'mmdet'),
    ],
)
def test_other_losses_stay_as_they_are(loss, scope):
    cfg = config(loss, scope=scope)
    mend_losses(cfg)
    assert cfg.model.decode_head.loss_decode == loss
