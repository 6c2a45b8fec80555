"""Training with our backbone and with timm's own gives the same losses, step for step."""

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
DIMS = [48, 96, 192, 288]
LENGTH = {  # of 8 images in batches of 4
    DETECTION: dict(type='EpochBasedTrainLoop', max_epochs=STEPS // 2),
    SEGMENTATION: dict(type='IterBasedTrainLoop', max_iters=STEPS),
}
CHANNELS = {
    DETECTION: {'model.neck.in_channels': DIMS},
    SEGMENTATION: {'model.decode_head.in_channels': DIMS, 'model.auxiliary_head.in_channels': DIMS[2]},
}


@MODELS.register_module()
class TimmMambaOut(BaseModule):
    """timm's maps with the output norms that MambaOut's authors describe."""

    def __init__(self):
        super().__init__()
        self.body = timm.create_model('mambaout_femto', features_only=True)
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-6) for dim in DIMS)

    def forward(self, x):
        maps = zip(self.norms, self.body(x), strict=True)  # timm's maps are (B, H, W, C)
        return tuple(norm(x).permute(0, 3, 1, 2).contiguous() for norm, x in maps)


class Record(Hook):
    """Keeps every loss of every step."""

    def __init__(self):
        self.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append({name: value.item() for name, value in outputs.items() if 'loss' in name})


def runner(config, backbone: dict, work_dir) -> Runner:
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(CHANNELS[config])
    cfg.merge_from_dict(
        dict(work_dir=str(work_dir), experiment_name=work_dir.name, train_cfg=dict(_delete_=True, **LENGTH[config]))
    )
    cfg.model.backbone = backbone
    cfg.optim_wrapper.optimizer.lr = 1e-4  # the recipe's, from the first step on
    cfg.optim_wrapper.clip_grad = None  # like the recipe's; the norm's last bit depends on the parameters' order
    cfg.param_scheduler = None
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=-1)
    for split in ('val', 'test'):
        for part in ('dataloader', 'evaluator', 'cfg'):
            cfg[f'{split}_{part}'] = None
    made = Runner.from_cfg(cfg)
    if config == SEGMENTATION:  # a detector's boxes are single
        made.model.double()  # AdamW's first steps magnify rounding: a thousand times in ten steps
    return made


@pytest.mark.parametrize(
    'config',
    [pytest.param(DETECTION, marks=pytest.mark.full_size), SEGMENTATION],
    ids=['detection', 'segmentation'],
)
def test_twenty_steps_have_the_losses_of_a_twin_with_timms_backbone(config, mini_data, tmp_path, monkeypatch):
    monkeypatch.chdir(mini_data)
    ours = runner(config, dict(type='MambaOut', arch='femto'), tmp_path / 'ours')
    twin = runner(config, dict(type='TimmMambaOut'), tmp_path / 'twin')

    def twins_name(name: str) -> str:
        name = name.replace('backbone.out_norms.', 'backbone.norms.')
        return name.replace('backbone.stages.', 'backbone.body.stages_').replace(
            'backbone.stem.', 'backbone.body.stem.'
        )

    twin.model.load_state_dict({twins_name(k): v for k, v in ours.model.state_dict().items()})
    records = []
    for run in (ours, twin):
        run.register_hook(record := Record())
        np.random.seed(0)
        torch.manual_seed(0)
        run.train()
        records.append(record.losses)
    assert len(records[0]) == len(records[1]) == STEPS
    for step, (a, b) in enumerate(zip(*records, strict=True)):
        assert a == pytest.approx(b, rel=1e-9 if config == SEGMENTATION else 1e-4), f'step {step}'
    assert records[0][-1]['loss'] != pytest.approx(records[0][0]['loss'], rel=1e-2)  # it has moved
