# The seat of every Mask R-CNN config here: mmdet's Mask R-CNN, its COCO data and its Swin-T 1x recipe, as the paper has
# it (section 4.3): AdamW, learning rate 1e-4, global batch 16, 12 epochs, short side 800, long side up to 1333, fp16.
# A backbone's config sets model.backbone and model.neck.in_channels, nothing else.
_base_ = [
    'mmdet::_base_/models/mask-rcnn_r50_fpn.py',
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmdet_plugin'], allow_failed_imports=False)

# 8 processes x 2 images; the paper's 4 x 4 is train_dataloader.batch_size=4 on 4 GPUs
workers = dict(type='outlive_signals')  # which ask the run to save and leave
train_dataloader = dict(batch_size=2, worker_init_fn=workers, dataset=dict(type='CheckedCocoDataset'))
val_dataloader = dict(worker_init_fn=workers, dataset=dict(type='CheckedCocoDataset'))
test_dataloader = val_dataloader
val_evaluator = dict(type='FastCocoMetric')  # pycocotools' numbers; backend='pycocotools' has it count them itself
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='AmpOnCudaOptimWrapper',  # the paper's fp16, where there is a GPU
    optimizer=dict(
        _delete_=True,
        type='AdamW',
        lr=1e-4,
        betas=(0.9, 0.999),
        weight_decay=0.05,  # ours: unpublished; the value of mmdet's Swin config
    ),
    # ours: unpublished; Swin's config exempts the norms too, by the name 'norm' where this goes by type
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
param_scheduler = [
    # ours: unpublished; the warm-up of mmdet's Swin config
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]

# never lose a run: each can be switched off by the type of mmengine's own
train_cfg = dict(type='ResumableEpochLoop')
default_hooks = dict(
    checkpoint=dict(type='SafeCheckpointHook', interval=1, max_keep_ckpts=2, save_best='coco/bbox_mAP', rule='greater'),
)
custom_hooks = [
    dict(type='StrictLoadHook'),
    dict(type='NumClassesHook'),
    dict(type='SkippedSamplesHook'),
    dict(type='ResumeHook'),
]
visualizer = dict(vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
