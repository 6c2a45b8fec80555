# 82 M, 1028 G; 50.6 mIoU single-scale, 51.2 multi-scale published by VMamba for upernet_vmamba_official.py
_base_ = './upernet_vmamba_tiny.py'
model = dict(
    backbone=dict(
        arch='small_s2l15',
        init_cfg=dict(
            checkpoint='https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm_small_0229_ckpt_epoch_222.pth'
        ),
    ),
)
