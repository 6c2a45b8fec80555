# The seat of every UperNet config here: mmseg's UperNet, its ADE20K data and its Swin-T 160k recipe, as the paper
# (section 4.4) and its author (repository, issue #251) have it: AdamW, learning rate 1e-4 for all sizes, no layer-wise
# decay, global batch 16, 160,000 iterations, fp16; the 512x512 crop and betas are Swin's, which the author refers to.
# A backbone's config sets model.backbone and the heads' channel lists, nothing else.
_base_ = [
    'mmseg::_base_/models/upernet_swin.py',
    'mmseg::_base_/datasets/ade20k.py',
    'mmseg::_base_/schedules/schedule_160k.py',
    'mmseg::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmseg_plugin'], allow_failed_imports=False)

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
    test_cfg=dict(mode='whole'),  # ours: unpublished; the mode of mmseg's Swin config
)

# mmseg's, but for a word: whether label 0 counts is the data set's to say, and ADE20K's leaves it out
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
# 8 processes x 2 images; the paper's 4 x 4 is train_dataloader.batch_size=4 on 4 GPUs
workers = dict(type='outlive_signals')  # which ask the run to save and leave
train_dataloader = dict(
    batch_size=2,
    sampler=dict(type='RestartableInfiniteSampler'),
    worker_init_fn=workers,
    dataset=dict(type='CheckedADE20KDataset', pipeline=train_pipeline),
)
val_dataloader = dict(
    worker_init_fn=workers, dataset=dict(type='CheckedADE20KDataset', pipeline=test_pipeline, test_mode=True)
)
test_dataloader = val_dataloader

optim_wrapper = dict(
    _delete_=True,
    type='AmpOnCudaOptimWrapper',  # the paper's fp16, where there is a GPU
    optimizer=dict(
        type='AdamW',
        lr=1e-4,
        betas=(0.9, 0.999),
        weight_decay=0.01,  # ours: unpublished; the value of mmseg's Swin config
    ),
    # ours: unpublished; Swin's config exempts the backbone's norms by the name 'norm', this the heads' batch norms too
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
param_scheduler = [
    # ours: unpublished; warm-up and decay of mmseg's Swin config
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=160000),
]
auto_scale_lr = dict(enable=False, base_batch_size=16)

# never lose a run: each can be switched off by the type of mmengine's own
train_cfg = dict(type='ResumableIterLoop')
default_hooks = dict(
    checkpoint=dict(
        type='SafeCheckpointHook', by_epoch=False, interval=16000, max_keep_ckpts=2, save_best='mIoU', rule='greater'
    ),
)
custom_hooks = [
    dict(type='StrictLoadHook'),
    dict(type='NumClassesHook'),
    dict(type='SkippedSamplesHook'),
    dict(type='ResumeHook'),
]
visualizer = dict(
    type='ContiguousSegVisualizer',
    name='visualizer',
    vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')],
)
