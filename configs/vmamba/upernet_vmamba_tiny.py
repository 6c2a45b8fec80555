# 55 M, 964 G; 47.3 mIoU single-scale, 48.3 multi-scale published by VMamba for upernet_vmamba_official.py
_base_ = '../_base_/upernet_160k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='VMamba',
        arch='tiny',
        drop_path_rate=0.3,  # VMamba's: its configs keep Swin-T's value for all vanilla sizes
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/MzeroMiko/VMamba/releases/download/%23v0cls/vssmtiny_dp01_ckpt_epoch_292.pth',
        ),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
