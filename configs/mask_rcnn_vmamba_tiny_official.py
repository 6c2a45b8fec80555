# VMamba's recipe (repository, detection/configs/vssm): Swin-T's 1x, in full precision, norms spared by their names
_base_ = './mask_rcnn_vmamba_tiny.py'
optim_wrapper = dict(
    type='OptimWrapper', paramwise_cfg=dict(_delete_=True, custom_keys=dict(norm=dict(decay_mult=0.0)))
)
