# VMamba's recipe (repository, segmentation/configs/vssm): Swin-T's, in full precision, norms spared by their names
_base_ = './upernet_vmamba_tiny.py'
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(lr=6e-5),
    paramwise_cfg=dict(_delete_=True, custom_keys=dict(norm=dict(decay_mult=0.0))),
)
