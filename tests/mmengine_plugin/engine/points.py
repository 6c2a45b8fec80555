"""A model and data so small that a run takes a fraction of a second and can be killed at every moment."""

from pathlib import Path

import torch
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, METRICS, MODELS
from mmengine.structures import BaseDataElement
from torch import nn

from mmengine_plugin.data.checked_samples import CheckedSamples
from tests.mmengine_plugin.engine.runs import train_in_a_process

LOOPS = dict(
    epochs=dict(type='ResumableEpochLoop', max_epochs=3, val_interval=1),
    iterations=dict(type='ResumableIterLoop', max_iters=9, val_interval=3),
)


@DATASETS.register_module()
class Points(CheckedSamples, BaseDataset):
    """Six points; training adds other noise each time. ``bad`` is the index of a point that is not a number."""

    METAINFO = dict(classes=('a', 'b'))

    def __init__(self, bad: int = -1, **kwargs) -> None:
        super().__init__(pipeline=[lambda info: self.noisy(info, bad)], **kwargs)

    def load_data_list(self) -> list[dict]:
        return [dict(img_path=f'{i}.jpg', value=float(i)) for i in range(6)]

    def noisy(self, info: dict, bad: int) -> dict:
        value = torch.full((4,), info['value']) + (0 if self.test_mode else torch.randn(4))
        value[0] = float('nan') if info['sample_idx'] == bad else value[0]
        return dict(inputs=value, data_samples=BaseDataElement(metainfo=dict(img_path=info['img_path'])))


@MODELS.register_module()
class Line(BaseModel):
    """A model with everything that a step may change: weights, statistics of a batch norm, random state of dropout."""

    def __init__(self, norm: bool = True, memory: bool = True) -> None:
        super().__init__()
        self.memory = memory
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.Dropout(0.5))
        self.head = nn.Linear(8, 1)

    def forward(self, inputs, data_samples, mode):
        if not self.memory:
            raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 MiB')
        out = self.head(self.body(torch.stack(inputs)))
        if mode == 'loss':
            return dict(loss=(out - torch.stack(inputs).mean(1, keepdim=True)).square().mean())
        return [BaseDataElement(value=value) for value in out]


@METRICS.register_module()
class Mean(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results += [sample['value'].item() for sample in data_samples]

    def compute_metrics(self, results):
        return dict(mean=sum(results))


def config(work_dir: Path, loop: str, resume: bool = False, workers: int = 0, send: tuple = (), **changes) -> dict:
    by_epoch = loop == 'epochs'
    data = dict(dataset=dict(type='Points'), num_workers=workers, persistent_workers=bool(workers), batch_size=2)
    sampler = dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True)
    checkpoint = dict(type='SafeCheckpointHook', by_epoch=False, interval=2, max_keep_ckpts=2, save_best='mean')
    settings = dict(
        model=dict(type='Line'),
        work_dir=str(work_dir),
        train_dataloader=dict(data, sampler=sampler, worker_init_fn=dict(type='ignore_signals')),
        val_dataloader=dict(
            data, dataset=dict(type='Points', test_mode=True), sampler=dict(type='DefaultSampler', shuffle=False)
        ),
        val_evaluator=dict(type='Mean'),
        val_cfg=dict(),
        train_cfg=LOOPS[loop],
        optim_wrapper=dict(type='FiniteOptimWrapper', optimizer=dict(type='AdamW', lr=0.01)),
        param_scheduler=[dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=5)],
        default_hooks=dict(checkpoint=dict(checkpoint, rule='greater'), logger=dict(type='LoggerHook', interval=1)),
        custom_hooks=[
            dict(type='ResumeHook'),
            *([dict(type='Send', **dict(zip(('number', 'moment', 'iteration'), send, strict=True)))] if send else []),
        ],
        randomness=dict(seed=3),
        resume=resume,
        default_scope='mmengine',
    )
    for name, value in changes.items():
        section, _, key = name.rpartition('__')
        (settings[section] if section else settings)[key] = value
    return settings


def run(work_dir: Path, loop: str, lines: int = 0, **settings) -> tuple[int, str]:
    """Train in a process of its own; return its exit code and its output."""
    return train_in_a_process(work_dir.parent / f'{work_dir.name}.log', config(work_dir, loop, **settings), lines)
