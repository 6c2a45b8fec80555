# 50 M, 271 G; 47.3 box / 42.7 mask AP published by VMamba for mask_rcnn_vmamba_official.py
_base_ = './mask_rcnn_vmamba_tiny.py'
model = dict(
    backbone=dict(
        arch='tiny_s1l8',
        init_cfg=dict(
            checkpoint='https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm1_tiny_0230s_ckpt_epoch_264.pth'
        ),
    ),
)
