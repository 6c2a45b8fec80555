# 76 M, 1081 G; 49.5 mIoU single-scale, 50.5 multi-scale published by VMamba for upernet_vmamba_official.py
_base_ = './upernet_vmamba_tiny.py'
model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(
            checkpoint='https://github.com/MzeroMiko/VMamba/releases/download/%23v0cls/vssmsmall_dp03_ckpt_epoch_238.pth'
        ),
    ),
)
