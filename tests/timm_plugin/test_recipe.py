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


# the defaults of DeiT's main.py, with --batch-size 256 on 4 GPUs, as its README has it
DEIT = {
    'model.backbone.drop_path_rate': 0.1,
    'auto_scale_lr.base_batch_size': 1024,
    'train_dataloader.batch_size': 256,
    'optim_wrapper.accumulative_counts': 1,
    'optim_wrapper.optimizer.lr': 5e-4 * 1024 / 512,
    'optim_wrapper.paramwise_cfg.custom_keys.pos_embed.decay_mult': 0.0,
    'param_scheduler.end': 300,
    'param_scheduler.warmup': 5,
    'param_scheduler.cooldown': 0,  # --cooldown-epochs 10 has no effect: the program ends after --epochs
    'train_cfg.max_epochs': 300,
    'train_dataloader.num_workers': 10,
    'train_dataloader.sampler.num_repeats': 3,
    'train_dataloader.dataset.transform.interpolation': 'bicubic',
    'val_dataloader.dataset.transform.crop_pct': 224 / 256,
    'randomness.seed': 0,
}


@pytest.mark.parametrize('size', ['small', 'base'])
@pytest.mark.parametrize('mask', ['', '_causal'])
def test_vits_recipe_is_deits_where_it_differs_from_mambaouts(size, mask):
    found, tiny = settings(config(f'vit/imagenet_vit_{size}{mask}')), settings(config('imagenet_mambaout_tiny'))
    changed = {k: v for k, v in found.items() if v != tiny.get(k) and not k.startswith(OURS)}
    assert changed == DEIT
    assert set(tiny) - set(found) == {'train_dataloader.sampler.shuffle'}  # the sampler of repeats shuffles always


def test_causal_and_fully_visible_vit_differ_in_the_mask_alone():
    for size in ('small', 'base'):
        causal, full = (
            flat(Config.fromfile(config(f'vit/imagenet_vit_{size}{mask}')).to_dict()) for mask in ('_causal', '')
        )
        assert causal.pop('model.backbone.causal') is True and causal == full


def test_the_head_of_a_causal_vit_sees_every_patch():
    model = MODELS.build(Config.fromfile(config('vit/imagenet_vit_small_causal')).model).eval()
    image = torch.randn(1, 3, 224, 224, requires_grad=True)
    model(image)[0, 0].backward()
    patches = image.grad.abs().sum((0, 1)).view(14, 16, 14, 16).sum((1, 3))
    assert (patches > 0).all()


def test_repeated_augmentation_is_deits_and_positions_have_no_weight_decay():
    cfg = Config.fromfile(config('vit/imagenet_vit_small'))
    sampler = DATA_SAMPLERS.build(dict(cfg.train_dataloader.sampler, dataset=range(600), seed=0))
    sampler.set_epoch(1)
    order = list(sampler)
    assert len(order) == 512 and all(order[i] == order[i + 1] == order[i + 2] for i in range(0, 510, 3))
    assert len(set(order)) == 171  # of 600 images
    sampler.set_epoch(2)
    assert list(sampler) != order
    model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, dict(cfg.optim_wrapper, type='FiniteOptimWrapper'))
    decays = {id(group['params'][0]): group['weight_decay'] for group in wrapper.optimizer.param_groups}
    assert decays[id(model.backbone.pos_embed)] == 0 and decays[id(model.backbone.blocks[0].mlp.fc1.weight)] == 0.05


def test_the_ssm_is_one_argument_of_the_backbone():
    ssm, tiny = (flat(load(size).to_dict()) for size in ('tiny_ssm', 'tiny'))
    assert ssm.pop('model.backbone.ssm') == Config.fromfile(config('mask_rcnn_mambaout_tiny_ssm')).model.backbone.ssm
    assert ssm == tiny


def test_fine_tuning_has_rates_that_fall_to_the_stem_and_larger_images():
    cfg = load('tiny_finetune')
    cfg.model.backbone.init_cfg = None
    model = MODELS.build(cfg.model)
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    scheduler = PARAM_SCHEDULERS.build(dict(cfg.param_scheduler, optimizer=wrapper))
    names = {parameter: name for name, parameter in model.named_parameters()}
    rates = {names[group['params'][0]]: group['lr'] for group in wrapper.optimizer.param_groups}
    assert rates['head.fc.weight'] == 5e-5 and rates['backbone.stages.3.blocks.2.fc1.weight'] == pytest.approx(
        5e-5 * 0.8
    )
    assert rates['backbone.stem.conv1.weight'] == pytest.approx(5e-5 * 0.8**7)
    for _ in range(29):
        wrapper.optimizer.step()
        scheduler.step()
    assert 1e-6 < wrapper.optimizer.param_groups[-1]['lr'] < 2e-6
    assert {cfg[f'{split}_dataloader'].dataset.transform.input_size for split in ('train', 'val', 'test')} == {288}
    assert type(model.loss).__name__ == 'LabelSmoothingCrossEntropy' and 'mixup' not in cfg.train_dataloader.collate_fn
