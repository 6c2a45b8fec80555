# 53 M, 252 G; 43.7 box / 40.2 mask AP published by EfficientVMamba for
# mask_rcnn_efficient_vmamba_official.py
_base_ = './mask_rcnn_efficient_vmamba_tiny.py'
model = dict(
    backbone=dict(
        arch='base',
        # download it from hf.co/TerryPei/EfficientVMamba-Base
        init_cfg=dict(checkpoint='efficient_vmamba_base.ckpt'),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
