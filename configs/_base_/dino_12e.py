# DINO with four scales, 12 epochs: mmdet's config with another backbone, of which all stages are trained. The backbone
# has a tenth of the learning rate, everything has weight decay, and training is in fp32
_base_ = ['mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py', './run_hooks.py']
custom_imports = dict(imports=['mmdet_plugin'], allow_failed_imports=False)

workers = dict(type='ignore_signals')
train_dataloader = dict(worker_init_fn=workers, dataset=dict(type='CheckedCocoDataset'))
val_dataloader = dict(worker_init_fn=workers, dataset=dict(type='CheckedCocoDataset'))
test_dataloader = val_dataloader
val_evaluator = dict(type='FastCocoMetric')
test_evaluator = val_evaluator

optim_wrapper = dict(type='FiniteOptimWrapper')
train_cfg = dict(type='ResumableEpochLoop')
default_hooks = dict(
    checkpoint=dict(type='SafeCheckpointHook', interval=1, max_keep_ckpts=2, save_best='coco/bbox_mAP', rule='greater'),
)
visualizer = dict(vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
