# 64 M, 400 G; 48.2 box / 43.0 mask AP published by VMamba for mask_rcnn_vmamba_official.py
_base_ = './mask_rcnn_vmamba_tiny.py'
model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(
            checkpoint='https://github.com/MzeroMiko/VMamba/releases/download/%23v0cls/vssmsmall_dp03_ckpt_epoch_238.pth'
        ),
    ),
)
