# 42 M, 286 G; 46.5 box / 42.1 mask AP published by VMamba for mask_rcnn_vmamba_official.py
_base_ = '../_base_/mask_rcnn_1x.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='VMamba',
        arch='tiny',
        drop_path_rate=0.2,  # VMamba's: its configs keep Swin-T's value for all vanilla sizes
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/MzeroMiko/VMamba/releases/download/%23v0cls/vssmtiny_dp01_ckpt_epoch_292.pth',
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
