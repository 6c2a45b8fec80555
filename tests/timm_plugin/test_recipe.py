"""An audit of the ImageNet recipe: every value is the authors', or is listed here as ours.

The authors' values are those of their scripts ``scripts/train_mambaout_*.sh``, of the defaults of their ``train.py``
and of the paper's Table 5.
"""

import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATA_SAMPLERS, MODELS, PARAM_SCHEDULERS
from timm.data import create_transform
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import nn

from mmengine_plugin import config
from tests.test_recipes import flat, settings

SIZES = ['femto', 'kobe', 'tiny', 'small', 'base']
DROP_PATH = dict(femto=0.025, kobe=0.025, tiny=0.2, small=0.4, base=0.6)  # DROP_PATH of each script
AUTHORS = {
    'auto_scale_lr.base_batch_size': 4096,  # ALL_BATCH_SIZE
    'train_dataloader.batch_size': 128,  # 4096 on NUM_GPU=8 with GRAD_ACCUM_STEPS=4
    'optim_wrapper.accumulative_counts': 4,
    'optim_wrapper.optimizer.type': 'AdamW',
    'optim_wrapper.optimizer.lr': 4e-3,
    'optim_wrapper.optimizer.betas': [0.9, 0.999],
    'optim_wrapper.optimizer.eps': 1e-8,
    'optim_wrapper.optimizer.weight_decay': 0.05,
    'optim_wrapper.paramwise_cfg.norm_decay_mult': 0.0,  # timm's filter_bias_and_bn, as all three of these
    'optim_wrapper.paramwise_cfg.bias_decay_mult': 0.0,
    'optim_wrapper.paramwise_cfg.flat_decay_mult': 0.0,
    'param_scheduler.end': 310,  # --epochs 300 --cooldown-epochs 10
    'param_scheduler.warmup': 20,
    'param_scheduler.cooldown': 10,
    'param_scheduler.warmup_lr': 1e-6,
    'param_scheduler.min_lr': 1e-5,
    'train_cfg.max_epochs': 310,
    'train_cfg.val_interval': 1,
    'train_cfg.drop_last_step': True,  # num_training_steps_per_epoch = len(dataset) // 4096
    'train_dataloader.num_workers': 8,
    'train_dataloader.drop_last': True,
    'train_dataloader.sampler.shuffle': True,
    'train_dataloader.dataset.split': 'train',
    'train_dataloader.dataset.transform.is_training': True,
    'train_dataloader.dataset.transform.input_size': 224,
    'train_dataloader.dataset.transform.scale': [0.08, 1.0],
    'train_dataloader.dataset.transform.ratio': [3 / 4, 4 / 3],
    'train_dataloader.dataset.transform.interpolation': 'random',
    'train_dataloader.dataset.transform.hflip': 0.5,
    'train_dataloader.dataset.transform.auto_augment': 'rand-m9-mstd0.5-inc1',
    'train_dataloader.collate_fn.mixup.mixup_alpha': 0.8,
    'train_dataloader.collate_fn.mixup.cutmix_alpha': 1.0,
    'train_dataloader.collate_fn.mixup.prob': 1.0,
    'train_dataloader.collate_fn.mixup.switch_prob': 0.5,
    'train_dataloader.collate_fn.mixup.mode': 'batch',
    'train_dataloader.collate_fn.mixup.label_smoothing': 0.1,
    'train_dataloader.collate_fn.mixup.num_classes': 1000,
    'model.num_classes': 1000,
    'model.loss.type': 'SoftTargetCrossEntropy',
    'model.data_preprocessor.mean': [123.675, 116.28, 103.53],  # timm's, times 255
    'model.data_preprocessor.std': [58.395, 57.12, 57.375],
    'model.data_preprocessor.erasing.probability': 0.25,
    'model.data_preprocessor.erasing.mode': 'pixel',
    'model.data_preprocessor.erasing.max_count': 1,
    'val_dataloader.dataset.split': 'val',
    'val_dataloader.dataset.transform.input_size': 224,
    'val_dataloader.dataset.transform.crop_pct': 1.0,  # models/mambaout.py
    'val_dataloader.dataset.transform.interpolation': 'bicubic',
    'val_evaluator.topk': [1, 5],
    'default_hooks.checkpoint.save_best': 'accuracy/top1',
    'default_hooks.checkpoint.rule': 'greater',
    'randomness.seed': 42,
}
# what runs the recipe, and changes nothing that the model learns; prefixes of keys
OURS = (
    *('default_hooks.timer', 'default_hooks.logger', 'default_hooks.param_scheduler', 'default_hooks.sampler_seed'),
    *('default_hooks.checkpoint.type', 'default_hooks.checkpoint.interval', 'default_hooks.checkpoint.max_keep_ckpts'),
    *('custom_hooks', 'env_cfg', 'log_processor', 'test_', 'val_cfg', 'optim_wrapper.type', 'train_cfg.type'),
    *('model.type', 'model.data_preprocessor.type', 'param_scheduler.type', 'val_evaluator.type'),
    *(
        f'{split}_dataloader.{key}'
        for split in ('train', 'val')
        for key in ('worker_init_fn', 'persistent_workers', 'sampler.type', 'dataset.type', 'dataset.root')
    ),
    *('train_dataloader.collate_fn.type', 'val_dataloader.collate_fn', 'val_dataloader.sampler.shuffle'),
    *('val_dataloader.batch_size', 'val_dataloader.num_workers'),
)


def load(size: str) -> Config:
    return Config.fromfile(config(f'imagenet_mambaout_{size}'))


@pytest.mark.parametrize('size', SIZES)
def test_every_setting_is_the_authors_or_is_listed_as_ours(size):
    found = settings(config(f'imagenet_mambaout_{size}'))
    assert found.pop('model.backbone.drop_path_rate') == DROP_PATH[size]
    assert {k: v for k, v in found.items() if k in AUTHORS} == AUTHORS
    assert [key for key in found if key not in AUTHORS and not key.startswith(OURS)] == []
    assert load(size).test_dataloader == load(size).val_dataloader


@pytest.mark.parametrize('size', SIZES)
def test_sizes_differ_in_the_backbone_alone(size):
    ours, tiny = flat(load(size).to_dict()), flat(load('tiny').to_dict())
    assert {k for k in ours | tiny if ours.get(k) != tiny.get(k)} <= {
        'model.backbone.arch',
        'model.backbone.drop_path_rate',
    }


def schedule(**changes: object) -> list[float]:
    """The learning rates of all epochs of our recipe."""
    cfg = load('tiny')
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr)
    scheduler = PARAM_SCHEDULERS.build(dict(cfg.param_scheduler, optimizer=optimizer, **changes))
    rates = []
    for _ in range(cfg.train_cfg.max_epochs):
        rates.append(optimizer.param_groups[0]['lr'])
        scheduler.step()
    return rates


def timms_schedule(**changes: object) -> list[float]:
    """The learning rates of all epochs that the authors' program gets from timm."""
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=4e-3)
    arguments = dict(sched='cosine', num_epochs=300, warmup_epochs=20, warmup_lr=1e-6, min_lr=1e-5, cooldown_epochs=10)
    scheduler, epochs = create_scheduler_v2(optimizer, **arguments | changes)
    rates = []
    for epoch in range(epochs):
        scheduler.step(epoch)
        rates.append(optimizer.param_groups[0]['lr'])
    return rates


def test_the_learning_rates_of_all_310_epochs_are_timms():
    assert len(schedule()) == 310 and schedule() == timms_schedule()


@pytest.mark.parametrize('changes', [dict(warmup_prefix=True), dict(warmup_epochs=19), dict(cooldown_epochs=9)])
def test_another_schedule_has_other_learning_rates(changes):
    assert schedule() != timms_schedule(**changes)


def test_layers_with_learning_rates_of_their_own_follow_timms_lr_scale():
    def groups(**key: float) -> list[dict]:
        return [dict(params=[nn.Parameter(torch.zeros(1))]), dict(params=[nn.Parameter(torch.zeros(1))], **key)]

    cfg = load('tiny').param_scheduler
    ours = torch.optim.AdamW(groups(lr=4e-3 * 0.7), lr=4e-3)
    timms = torch.optim.AdamW(groups(lr_scale=0.7), lr=4e-3)
    scheduler = PARAM_SCHEDULERS.build(dict(cfg, optimizer=ours))
    twin, _ = create_scheduler_v2(
        timms, 'cosine', 300, warmup_epochs=20, warmup_lr=1e-6, min_lr=1e-5, cooldown_epochs=10
    )
    for epoch in range(310):
        twin.step(epoch)
        rates = [[group['lr'] for group in optimizer.param_groups] for optimizer in (ours, timms)]
        assert rates[0] == pytest.approx(rates[1], rel=1e-12), epoch
        scheduler.step()


@pytest.mark.parametrize('size', ['femto', 'small_rw'])
def test_weight_decay_is_timms_for_every_parameter(size):
    cfg = load('tiny')
    model = MODELS.build(dict(cfg.model, backbone=dict(type='MambaOut', arch=size)))
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    names = {parameter: name.removeprefix('backbone.') for name, parameter in model.named_parameters()}
    ours = {
        names[parameter]: group['weight_decay']
        for group in wrapper.optimizer.param_groups
        for parameter in group['params']
    }
    twin = timm.create_model(f'mambaout_{size}')
    optimizer = create_optimizer_v2(twin, opt='adamw', lr=4e-3, weight_decay=0.05)
    names = {parameter: name for name, parameter in twin.named_parameters()}
    timms = {
        names[parameter]: group['weight_decay'] for group in optimizer.param_groups for parameter in group['params']
    }
    assert ours == timms and set(ours.values()) == {0.0, 0.05}


@pytest.mark.parametrize('color_jitter', [0.4, None])
def test_the_transform_is_that_of_the_authors_program_with_which_color_jitter_does_nothing(color_jitter):
    arguments = dict(scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), hflip=0.5, interpolation='random')
    arguments |= dict(auto_augment='rand-m9-mstd0.5-inc1', color_jitter=color_jitter)
    timms = create_transform(224, is_training=True, use_prefetcher=True, **arguments)
    ours = create_transform(**load('tiny').train_dataloader.dataset.transform, use_prefetcher=True)
    assert str(ours) == str(timms)
    assert str(ours) != str(create_transform(224, is_training=True, use_prefetcher=True, **arguments | dict(hflip=0.4)))


def test_an_epoch_of_imagenet_has_312_steps():
    """A process that counts for eight: the order of the samples plays no role."""
    cfg = load('tiny')
    sampler = DATA_SAMPLERS.build(dict(cfg.train_dataloader.sampler, dataset=range(1_281_167)))
    inner = dict(type=torch.utils.data.BatchSampler, drop_last=True)
    steps = cfg.optim_wrapper.accumulative_counts
    batches = DATA_SAMPLERS.build(
        dict(
            type='NumberedBatchSampler', sampler=sampler, batch_size=8 * 128, inner=inner, endless=False, multiple=steps
        )
    )
    assert len(batches) == 312 * steps == 1_281_167 // 4096 * 4
    assert len(list(batches.build_inner())) == len(batches) + 3  # which the authors' program skips, too


@pytest.mark.parametrize('name', ['MambaOut', 'VMamba', 'EfficientVMamba', 'ViT', 'Vim', 'PlainMamba', 'S4NDConvNeXt'])
def test_any_backbone_takes_the_place_of_mambaout_by_one_line(name):
    cfg = load('tiny')
    backbone = dict(type=name) | (dict(norm_eval=False) if name in ('EfficientVMamba', 'PlainMamba') else {})
    cfg.merge_from_dict(dict(model=dict(backbone=dict(_delete_=True, **backbone))))
    model = MODELS.build(cfg.model)
    for norm in model.modules():
        assert norm.training or not isinstance(norm, nn.BatchNorm2d)
    batch = dict(inputs=torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8), labels=torch.full((2, 1000), 1e-3))
    batch = model.data_preprocessor(batch, training=True)
    model(**batch, mode='loss')['loss'].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
