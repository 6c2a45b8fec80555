# Data, schedule and optimizer of the detectors, without a model: mmdet's Swin-T 1x recipe on COCO, as the paper
# describes it (section 4.3): AdamW, learning rate 1e-4, global batch 16, 12 epochs, short side 800, long side up to
# 1333, fp16. Values that the paper does not give are marked "ours".
_base_ = [
    'mmdet::_base_/datasets/coco_instance.py',
    'mmdet::_base_/schedules/schedule_1x.py',
    'mmdet::_base_/default_runtime.py',
    './run_hooks.py',
]
custom_imports = dict(imports=['mmdet_plugin'], allow_failed_imports=False)

workers = dict(type='ignore_signals')  # a signal asks the run to save and stop, which needs its data workers
train_dataloader = dict(
    batch_size=2,  # on 8 GPUs; for the paper's 4 x 4, set train_dataloader.batch_size=4 on 4 GPUs
    worker_init_fn=workers,
    dataset=dict(type='CheckedCocoDataset'),
)
val_dataloader = dict(worker_init_fn=workers, dataset=dict(type='CheckedCocoDataset'))
test_dataloader = val_dataloader
# pycocotools' numbers, faster; backend='pycocotools' uses pycocotools itself
val_evaluator = dict(type='FastCocoMetric')
test_evaluator = val_evaluator

optim_wrapper = dict(
    type='AmpOnCudaOptimWrapper',  # the paper's fp16 on a GPU; full precision on a CPU
    optimizer=dict(
        _delete_=True,
        type='AdamW',
        lr=1e-4,
        betas=(0.9, 0.999),
        weight_decay=0.05,  # ours: not published; the value of mmdet's Swin config
    ),
    # ours: not published; no weight decay for norms. Swin's config finds them by the name 'norm', this by their type
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
param_scheduler = [
    # ours: not published; the warm-up of mmdet's Swin config
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type='MultiStepLR', begin=0, end=12, by_epoch=True, milestones=[8, 11], gamma=0.1),
]

# No run is lost: checkpoints are written atomically, and a resumed run continues exactly. Each type can be replaced by
# that of mmengine, such as 'EpochBasedTrainLoop' and 'CheckpointHook'
train_cfg = dict(type='ResumableEpochLoop')
default_hooks = dict(
    checkpoint=dict(type='SafeCheckpointHook', interval=1, max_keep_ckpts=2, save_best='coco/bbox_mAP', rule='greater'),
)
visualizer = dict(vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
