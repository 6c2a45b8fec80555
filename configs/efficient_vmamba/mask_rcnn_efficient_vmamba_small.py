# 31 M, 197 G; 39.3 box / 36.7 mask AP published by EfficientVMamba for
# mask_rcnn_efficient_vmamba_official.py
_base_ = './mask_rcnn_efficient_vmamba_tiny.py'
model = dict(
    backbone=dict(
        arch='small',
        # download it from hf.co/TerryPei/EfficientVMamba-Small
        init_cfg=dict(checkpoint='efficient_vmamba_small.ckpt'),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
