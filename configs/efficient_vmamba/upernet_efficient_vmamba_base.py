# 65 M, 929 G; 46.5 mIoU single-scale, 47.3 multi-scale published by EfficientVMamba for
# upernet_efficient_vmamba_official.py
_base_ = './upernet_efficient_vmamba_tiny.py'
model = dict(
    backbone=dict(
        arch='base',
        # download it from hf.co/TerryPei/EfficientVMamba-Base
        init_cfg=dict(checkpoint='efficient_vmamba_base.ckpt'),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
