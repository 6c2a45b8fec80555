# 122 M, 1170 G; 51.0 mIoU single-scale, 51.6 multi-scale published by VMamba for upernet_vmamba_official.py
_base_ = './upernet_vmamba_tiny.py'
model = dict(
    backbone=dict(
        arch='base_s2l15',
        drop_path_rate=0.6,  # VMamba's
        init_cfg=dict(
            checkpoint='https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm_base_0229_ckpt_epoch_237.pth'
        ),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
