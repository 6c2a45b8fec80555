# 110 M, 1226 G; 50.0 mIoU single-scale, 51.3 multi-scale published by VMamba for upernet_vmamba_official.py
_base_ = './upernet_vmamba_tiny.py'
model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(
            checkpoint='https://github.com/MzeroMiko/VMamba/releases/download/%23v0cls/vssmbase_dp06_ckpt_epoch_241.pth'
        ),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
