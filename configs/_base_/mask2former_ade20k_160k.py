# Mask2Former for semantic segmentation on ADE20K, 160,000 iterations: mmseg's config with the parameter rules of its
# Swin configs, in fp32. The head is mmdet's
_base_ = ['mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py', './mask2former_keys.py', './run_hooks.py']
custom_imports = dict(_delete_=True, imports=['mmseg_plugin', 'mmdet.models'], allow_failed_imports=False)

# mmseg's pipelines without reduce_zero_label: the data set says whether label 0 is left out, and ADE20K's says yes
crop_size = (512, 512)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(
        type='RandomChoiceResize',
        scales=[int(512 * tenths / 10) for tenths in range(5, 21)],
        resize_type='ResizeShortestEdge',
        max_size=2048,
    ),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.75),
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
workers = dict(type='ignore_signals')
train_dataloader = dict(worker_init_fn=workers, dataset=dict(type='CheckedADE20KDataset', pipeline=train_pipeline))
val_dataloader = dict(
    worker_init_fn=workers, dataset=dict(type='CheckedADE20KDataset', pipeline=test_pipeline, test_mode=True)
)
test_dataloader = val_dataloader
val_evaluator = dict(type='CheckedIoUMetric')
test_evaluator = val_evaluator

optim_wrapper = dict(type='FiniteOptimWrapper', paramwise_cfg=dict(custom_keys={{_base_.mask2former_keys}}))
train_cfg = dict(type='ResumableIterLoop')
default_hooks = dict(checkpoint=dict(type='SafeCheckpointHook', max_keep_ckpts=2, rule='greater'))
visualizer = dict(
    type='ContiguousSegVisualizer',
    vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')],
)
