# 50 M, 270 G; 47.4 box / 42.7 mask AP published by VMamba for mask_rcnn_vmamba_official.py
_base_ = './mask_rcnn_vmamba_tiny.py'
model = dict(
    backbone=dict(
        arch='tiny_s2l5',
        init_cfg=dict(
            checkpoint='https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm_tiny_0230_ckpt_epoch_262.pth'
        ),
    ),
)
