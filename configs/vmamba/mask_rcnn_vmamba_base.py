# 96 M, 540 G; 48.6 box / 43.3 mask AP published by VMamba for mask_rcnn_vmamba_official.py
_base_ = './mask_rcnn_vmamba_tiny.py'
model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(
            checkpoint='https://github.com/MzeroMiko/VMamba/releases/download/%23v0cls/vssmbase_dp06_ckpt_epoch_241.pth'
        ),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
