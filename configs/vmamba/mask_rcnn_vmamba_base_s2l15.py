# 108 M, 485 G; 49.2 box / 44.1 mask AP published by VMamba for mask_rcnn_vmamba_official.py
_base_ = './mask_rcnn_vmamba_tiny.py'
model = dict(
    backbone=dict(
        arch='base_s2l15',
        drop_path_rate=0.6,  # VMamba's
        init_cfg=dict(
            checkpoint='https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm_base_0229_ckpt_epoch_237.pth'
        ),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
