"""Training by the recipe gives the losses of the authors' training step, written with timm alone."""

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import nn

from tests.conftest import CLASSIFICATION

STEPS, ACCUMULATED, EPOCHS, CLASSES = 20, 4, 10, 6
ROUNDING = 1e-5
ARCH = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
CRITERION = SoftTargetCrossEntropy()
Batches = list[tuple[torch.Tensor, torch.Tensor]]


def ours(work_dir: Path) -> tuple[list[float], Batches, dict[str, torch.Tensor]]:
    """Train by our recipe in double precision: 20 steps of 4 batches, in 10 epochs.

    Returns:
        The loss of each batch; the images and soft labels of each batch, as the model gets them; the first weights.
    """
    cfg = Config.fromfile(CLASSIFICATION)
    loader = dict(batch_size=8, num_workers=0, persistent_workers=False)
    cfg.merge_from_dict(
        {
            'work_dir': str(work_dir),
            'experiment_name': work_dir.name,
            'train_dataloader': loader,
            'train_dataloader.dataset.transform.input_size': 32,
            'model.backbone.arch': dict(_delete_=True, **ARCH),
            'optim_wrapper.accumulative_counts': ACCUMULATED,
            'optim_wrapper.optimizer.lr': 4e-3,
            'param_scheduler': dict(end=EPOCHS, warmup=3, cooldown=1),
            'train_cfg.max_epochs': EPOCHS,
            'default_hooks.checkpoint': dict(_delete_=True, type='CheckpointHook', interval=-1),
        }
    )
    for split in ('val', 'test'):
        for part in ('dataloader', 'evaluator', 'cfg'):
            cfg[f'{split}_{part}'] = None
    # 9 batches in an epoch, of which the last one is left out
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=9, dataset=cfg.train_dataloader.dataset)
    runner = Runner.from_cfg(cfg)
    runner.model.double()
    weights = {key: value.clone() for key, value in runner.model.state_dict().items()}
    losses, batches = [], []

    def record(model: nn.Module, args: tuple, kwargs: dict, output: dict) -> None:
        losses.append(float(output['loss']))
        batches.append((kwargs['inputs'].clone(), kwargs['labels'].clone()))

    runner.model.register_forward_hook(record, with_kwargs=True)
    runner.train()
    return losses, batches, weights


def authors(
    batches: Batches,
    weights: dict[str, torch.Tensor],
    accumulated: int = ACCUMULATED,
    criterion: Callable = CRITERION,
    warmup_epochs: int = 3,
    filter_bias_and_bn: bool = True,
    betas: tuple[float, float] = (0.9, 0.999),
) -> list[float]:
    """Take the authors' training steps on the same batches, from the same weights."""
    model = timm.create_model('mambaout_femto', **ARCH, num_classes=CLASSES)
    model.double().load_state_dict({key.removeprefix('backbone.'): value for key, value in weights.items()})
    optimizer = create_optimizer_v2(
        model,
        opt='adamw',
        lr=4e-3,
        weight_decay=0.05,
        betas=betas,
        filter_bias_and_bn=filter_bias_and_bn,
    )
    scheduler, epochs = create_scheduler_v2(
        optimizer, 'cosine', EPOCHS - 1, warmup_epochs=warmup_epochs, warmup_lr=1e-6, min_lr=1e-5, cooldown_epochs=1
    )
    losses, of_epoch = [], len(batches) // epochs
    for epoch in range(epochs):
        scheduler.step(epoch)
        for i, (images, labels) in enumerate(batches[epoch * of_epoch : (epoch + 1) * of_epoch]):
            loss = criterion(model(images), labels)
            (loss / accumulated).backward()
            if (i + 1) % accumulated == 0:
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
    return losses


@pytest.fixture(scope='module')
def trained(mini_data, tmp_path_factory):
    """What :func:`ours` returns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(mini_data)
        return ours(tmp_path_factory.mktemp('ours'))


def test_twenty_steps_have_the_losses_of_the_authors_step(trained):
    losses, batches, weights = trained
    assert len(losses) == STEPS * ACCUMULATED
    assert losses == pytest.approx(authors(batches, weights), abs=ROUNDING)
    assert max(losses) - min(losses) > 0.1  # it learns


@pytest.mark.parametrize(
    'change',
    [
        dict(accumulated=2),
        dict(criterion=lambda logits, labels: LabelSmoothingCrossEntropy(0.1)(logits, labels.argmax(-1))),
        dict(warmup_epochs=2),
        dict(filter_bias_and_bn=False),
        dict(betas=(0.9, 0.99)),
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_training_step_has_other_losses(trained, change):
    losses, batches, weights = trained
    assert losses != pytest.approx(authors(batches, weights, **change), abs=ROUNDING)


def test_the_batches_are_mixed_erased_and_smoothed(trained):
    _, batches, _ = trained
    assert all(labels.sum(-1).sub(1).abs().max() < 1e-6 for _, labels in batches)
    assert min(float(labels.min()) for _, labels in batches) == pytest.approx(0.1 / CLASSES)  # smoothing
    assert any(int((labels > 0.1).sum(-1).max()) == 2 for _, labels in batches)  # mixing
    # an erased rectangle holds normal noise, whose values are not those of 256 levels
    levels = (torch.arange(256.0)[:, None] - torch.tensor([123.675, 116.28, 103.53])) / torch.tensor(
        [58.395, 57.12, 57.375]
    )
    noise = [~torch.isin(images[:, 0].float(), levels[:, 0]) for images, _ in batches]
    shares = [float(part.double().mean()) for part in torch.cat(noise)]
    assert 0.1 < sum(share > 0 for share in shares) / len(shares) < 0.45  # a quarter is erased
