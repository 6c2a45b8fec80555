# Data, schedule and optimizer of the segmentors, without a model: mmseg's Swin-T 160k recipe on ADE20K, as the paper
# (section 4.4) and its author (repository, issue #251) describe it: AdamW, learning rate 1e-4 for all sizes, no
# layer-wise decay, global batch 16, 160,000 iterations, fp16. The author refers to Swin's config for the rest, such as
# the crop of 512x512 and the betas. Values that neither gives are marked "ours".
_base_ = [
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/schedules/schedule_160k.py',
    'mmseg::_base_/default_runtime.py',
    './run_hooks.py',
]
custom_imports = dict(imports=['mmseg_plugin'], allow_failed_imports=False)

# mmseg's pipelines without reduce_zero_label: the data set says whether label 0 is left out, and ADE20K's says yes
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomResize', scale=(2048, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
workers = dict(type='ignore_signals')  # a signal asks the run to save and stop, which needs its data workers
train_dataloader = dict(
    batch_size=2,  # on 8 GPUs; for the paper's 4 x 4, set train_dataloader.batch_size=4 on 4 GPUs
    worker_init_fn=workers,
    dataset=dict(type='CheckedADE20KDataset', pipeline=train_pipeline),
)
val_dataloader = dict(
    worker_init_fn=workers, dataset=dict(type='CheckedADE20KDataset', pipeline=test_pipeline, test_mode=True)
)
test_dataloader = val_dataloader
val_evaluator = dict(type='CheckedIoUMetric')
test_evaluator = val_evaluator

optim_wrapper = dict(
    _delete_=True,
    type='AmpOnCudaOptimWrapper',  # the paper's fp16 on a GPU; full precision on a CPU
    optimizer=dict(
        type='AdamW',
        lr=1e-4,
        betas=(0.9, 0.999),
        weight_decay=0.01,  # ours: not published; the value of mmseg's Swin config
    ),
    # ours: not published; no weight decay for norms. Swin's config finds them by the name 'norm', which misses the
    # batch norms of the heads; this finds them by their type
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
param_scheduler = [
    # ours: not published; warm-up and decay of mmseg's Swin config
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=160000),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)

# No run is lost: checkpoints are written atomically, and a resumed run continues exactly. Each type can be replaced by
# that of mmengine, such as 'IterBasedTrainLoop' and 'CheckpointHook'
train_cfg = dict(type='ResumableIterLoop')
default_hooks = dict(
    checkpoint=dict(
        type='SafeCheckpointHook', by_epoch=False, interval=16000, max_keep_ckpts=2, save_best='mIoU', rule='greater'
    ),
)
visualizer = dict(
    type='ContiguousSegVisualizer',
    name='visualizer',
    vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')],
)
