"""Training with our backbone and with timm's own gives the same losses, step for step."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import nn

from tests.conftest import DETECTION, SEGMENTATION

STEPS = 20
LR = 1e-4  # the recipe's
ADAM_EPS = 1e-8
# How far rounding may move a loss, by its dtype. AdamW divides a gradient by its size plus epsilon, so it magnifies a
# rounding error by up to LR / ADAM_EPS in a step. In single precision, no digit is then sure after a few steps: the
# scores of two proposals may swap their order, and other regions are sampled. In double precision, ten digits are left.
# The gradients of binary cross entropies are in double precision too, but PyTorch rounds these losses to single
# precision, the dtype of mmdet's targets.
ROUNDING = {
    torch.double: STEPS * LR / ADAM_EPS * torch.finfo(torch.double).eps,
    torch.float: torch.finfo(torch.float).eps,
}


@MODELS.register_module()
class TimmMambaOut(BaseModule):
    """timm's maps with the output norms that MambaOut's authors describe.

    Args:
        arch: Depths and widths of the stages.
        eps: Epsilon of the first block's norm.
        act: Activation of the first block.
    """

    def __init__(self, arch: dict, eps: float = 1e-6, act: str = 'GELU') -> None:
        super().__init__()
        self.body = timm.create_model('mambaout_femto', features_only=True, **arch)
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-6) for dim in arch['dims'])
        block = self.body.stages_0.blocks[0]
        block.norm.eps, block.act = eps, getattr(nn, act)()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        maps = zip(self.norms, self.body(x), strict=True)  # timm's maps are (B, H, W, C)
        return tuple(norm(x).permute(0, 3, 1, 2).contiguous() for norm, x in maps)


class Record(Hook):
    """Keeps every loss of every step, but not their sum."""

    def __init__(self) -> None:
        self.losses: list[dict[str, torch.Tensor]] = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append({k: v.detach().clone() for k, v in outputs.items() if 'loss' in k and k != 'loss'})


def runner(config: Path, steps: int, work_dir: Path, twin: dict | None = None) -> Runner:
    """The config's run in double precision, with our backbone or with a twin."""
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(dict(work_dir=str(work_dir), experiment_name=work_dir.name))
    if twin is not None:
        arch = {key: cfg.model.backbone.arch[key] for key in ('depths', 'dims')}
        cfg.model.backbone = dict(type='TimmMambaOut', arch=arch, **twin)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=steps)
    sampler = dict(type='InfiniteSampler', shuffle=True)
    cfg.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False, sampler=sampler)
    for transform in cfg.train_dataloader.dataset.pipeline:
        if transform['type'] == 'Resize':
            transform['scale'] = (128, 96)  # a detector's step takes a third of the time
    cfg.optim_wrapper.optimizer.update(lr=LR, eps=ADAM_EPS)  # from the first step on
    cfg.optim_wrapper.clip_grad = None  # like the recipe's; the norm's last bit depends on the parameters' order
    cfg.param_scheduler = None
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=-1)
    for split in ('val', 'test'):
        for part in ('dataloader', 'evaluator', 'cfg'):
            cfg[f'{split}_{part}'] = None
    made = Runner.from_cfg(cfg)
    made.model.double()
    return made


def twins_name(name: str) -> str:
    """The name in the twin of one of our parameters or buffers."""
    for ours, timms in (('out_norms.', 'norms.'), ('stages.', 'body.stages_'), ('stem.', 'body.stem.')):
        name = name.replace(f'backbone.{ours}', f'backbone.{timms}')
    return name


def twins(config: Path, steps: int, work_dir: Path, **twin: float | str) -> tuple[Runner, Runner]:
    """Our run and a twin's, which start from the same weights."""
    ours = runner(config, steps, work_dir / 'ours')
    timms = runner(config, steps, work_dir / 'twin', twin)
    timms.model.load_state_dict({twins_name(k): v for k, v in ours.model.state_dict().items()})
    return ours, timms


def losses(run: Runner) -> list[dict[str, torch.Tensor]]:
    """Train, and return the losses of each step."""
    run.register_hook(record := Record())
    np.random.seed(0)
    torch.manual_seed(0)
    run.train()
    return record.losses


def different(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> list[str]:
    """Names of the losses that differ by more than rounding explains."""
    return [name for name in a if not torch.isclose(a[name], b[name], rtol=ROUNDING[a[name].dtype], atol=0)]


@pytest.mark.parametrize('config', [DETECTION, SEGMENTATION], ids=['detection', 'segmentation'])
def test_twenty_steps_have_the_losses_of_a_twin_with_timms_backbone(config, mini_data, tmp_path, monkeypatch):
    monkeypatch.chdir(mini_data)
    ours, timms = twins(config, STEPS, tmp_path)
    weight = ours.model.backbone.stem.conv1.weight
    before = weight.detach().clone()
    pairs = zip(losses(ours), losses(timms), strict=True)
    assert [different(*pair) for pair in pairs] == [[]] * STEPS
    assert not torch.allclose(weight, before)


@pytest.mark.parametrize(
    ('config', 'change'),
    [
        pytest.param(DETECTION, dict(eps=1e-5), id='detection-epsilon'),
        pytest.param(SEGMENTATION, dict(act='SiLU'), id='segmentation-activation'),
    ],
)
def test_the_losses_of_five_steps_show_another_epsilon_or_activation_in_one_block(
    config, change, mini_data, tmp_path, monkeypatch
):
    monkeypatch.chdir(mini_data)
    ours, timms = twins(config, 5, tmp_path, **change)
    assert different(losses(ours)[-1], losses(timms)[-1])
