# 62 M, 948 G; 48.3 mIoU single-scale, 48.6 multi-scale published by VMamba for upernet_vmamba_official.py
_base_ = './upernet_vmamba_tiny.py'
model = dict(
    backbone=dict(
        arch='tiny_s2l5',
        drop_path_rate=0.2,  # VMamba's
        init_cfg=dict(
            checkpoint='https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm_tiny_0230_ckpt_epoch_262.pth'
        ),
    ),
)
