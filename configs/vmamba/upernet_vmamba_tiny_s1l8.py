# 62 M, 949 G; 47.9 mIoU single-scale, 48.8 multi-scale published by VMamba for upernet_vmamba_official.py
_base_ = './upernet_vmamba_tiny.py'
model = dict(
    backbone=dict(
        arch='tiny_s1l8',
        drop_path_rate=0.2,  # VMamba's
        init_cfg=dict(
            checkpoint='https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm1_tiny_0230s_ckpt_epoch_264.pth'
        ),
    ),
)
