# Mask2Former for instances on COCO, 50 epochs with large-scale jittering: mmdet's config with the parameter rules of
# its Swin configs, in fp32
_base_ = ['mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py', './mask2former_keys.py', './run_hooks.py']
custom_imports = dict(imports=['mmdet_plugin'], allow_failed_imports=False)

workers = dict(type='ignore_signals')
train_dataloader = dict(worker_init_fn=workers, dataset=dict(type='CheckedCocoDataset'))
val_dataloader = dict(worker_init_fn=workers, dataset=dict(type='CheckedCocoDataset'))
test_dataloader = val_dataloader
val_evaluator = dict(type='FastCocoMetric')
test_evaluator = val_evaluator

optim_wrapper = dict(type='FiniteOptimWrapper', paramwise_cfg=dict(custom_keys={{_base_.mask2former_keys}}))
train_cfg = dict(type='ResumableIterLoop')
default_hooks = dict(
    checkpoint=dict(type='SafeCheckpointHook', max_keep_ckpts=2, save_best='coco/segm_mAP', rule='greater')
)
visualizer = dict(vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')])
