# The recipe of MambaOut on ImageNet, from the authors' scripts and train.py (github.com/yuweihao/MambaOut, 9f2f234) and
# the paper's Table 5. timm's parts do the work. Values that are not theirs are marked "ours". A backbone's config sets
# model.backbone and nothing else. Two of their settings have no effect and are left out: --head-dropout does not reach
# their model, and timm drops the color jitter where there is RandAugment.
custom_imports = dict(imports=['timm_plugin'], allow_failed_imports=False)
default_scope = 'mmengine'

num_classes, size = 1000, 224
model = dict(
    type='ImageClassifier',
    num_classes=num_classes,
    loss=dict(type='SoftTargetCrossEntropy'),
    data_preprocessor=dict(
        type='ImagePreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        erasing=dict(probability=0.25, mode='pixel', max_count=1),
    ),
)

# train/ and val/ with one folder for each class. For a tar, set root to the .tar of each split; for a Hugging Face data
# set, name='hfds/ILSVRC/imagenet-1k' and split='train' and 'validation'
data_root = 'data/imagenet'
workers = dict(type='ignore_signals')  # a signal asks the run to save and stop, which needs its data workers
train_dataloader = dict(
    batch_size=128,  # on 8 GPUs, with 4 accumulated batches
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    worker_init_fn=workers,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='TimmDataset',
        root=data_root,
        split='train',
        transform=dict(
            is_training=True,
            input_size=size,
            scale=(0.08, 1.0),
            ratio=(3 / 4, 4 / 3),
            interpolation='random',  # bilinear or bicubic
            hflip=0.5,
            auto_augment='rand-m9-mstd0.5-inc1',
        ),
    ),
    collate_fn=dict(
        type='collate_images',
        mixup=dict(
            mixup_alpha=0.8,
            cutmix_alpha=1.0,
            prob=1.0,
            switch_prob=0.5,
            mode='batch',
            label_smoothing=0.1,
            num_classes=num_classes,
        ),
    ),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    worker_init_fn=workers,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='TimmDataset',
        root=data_root,
        split='val',
        transform=dict(input_size=size, crop_pct=1.0, interpolation='bicubic'),
    ),
    collate_fn=dict(type='collate_images'),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='TopKAccuracy', topk=(1, 5))
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='FiniteOptimWrapper',  # fp32, as in the authors' scripts; --amp trains in fp16
    optimizer=dict(type='AdamW', lr=4e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.05),
    # timm's rule: no weight decay for biases and for parameters of one dimension
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
    accumulative_counts=4,
)
# 300 epochs and 10 of cool-down; the paper speaks of 300
param_scheduler = dict(type='TimmCosineLR', end=310, warmup=20, cooldown=10, warmup_lr=1e-6, min_lr=1e-5)
train_cfg = dict(type='ResumableEpochLoop', max_epochs=310, val_interval=1, drop_last_step=True)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
auto_scale_lr = dict(base_batch_size=4096)
randomness = dict(seed=42)

# No run is lost, as in the recipes of detection and segmentation
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='SafeCheckpointHook',
        interval=1,
        max_keep_ckpts=2,  # ours: the authors keep the 10 best
        save_best='accuracy/top1',
        rule='greater',
    ),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
custom_hooks = [
    dict(type='StrictLoadHook'),
    dict(type='NumClassesHook'),
    dict(type='ResumeHook'),
    dict(type='CheckRunHook'),
]
env_cfg = dict(cudnn_benchmark=True, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0))
log_processor = dict(window_size=50)
visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
