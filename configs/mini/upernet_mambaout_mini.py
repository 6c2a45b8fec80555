# The 160k recipe on `tools/make_mini_dataset.py ade20k data/mini/ade20k`, small enough for two CPU cores. The demo
# and the tests run it. Its scores show that the code works; they say nothing about ADE20K.
_base_ = '../upernet_mambaout_tiny.py'

crop_size, width, norm_cfg = (128, 128), 64, dict(type='BN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(
        arch=dict(_delete_=True, depths=(1, 1, 3, 1), dims=(32, 64, 128, 192)),
        drop_path_rate=0.0,
        init_cfg=None,
    ),
    decode_head=dict(in_channels=[32, 64, 128, 192], channels=width, norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=128, channels=width, norm_cfg=norm_cfg),
)

data_root = 'data/mini/ade20k'
scale = (224, 160)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=scale, ratio_range=(0.8, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=4, num_workers=2, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(num_workers=2, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader

iterations = 800
# Training starts from scratch, so the learning rate is higher. The first gradients are clipped: where padding and zero
# biases make a constant map, LayerNorm multiplies them by 1 / sqrt(eps)
optim_wrapper = dict(optimizer=dict(lr=2e-3), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=40),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=40, end=iterations),
]
train_cfg = dict(max_iters=iterations, val_interval=iterations // 4)
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=iterations // 4))
auto_scale_lr = dict(base_batch_size=4)
randomness = dict(seed=0)
