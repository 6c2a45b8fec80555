# 41 M, 871 G as counted; 41.5 mIoU single-scale, 42.1 multi-scale, 29 M and 505 G published by EfficientVMamba for
# upernet_efficient_vmamba_official.py, whose head is narrower
_base_ = './upernet_efficient_vmamba_tiny.py'
model = dict(
    backbone=dict(
        arch='small',
        # download it from hf.co/TerryPei/EfficientVMamba-Small
        init_cfg=dict(checkpoint='efficient_vmamba_small.ckpt'),
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
)
