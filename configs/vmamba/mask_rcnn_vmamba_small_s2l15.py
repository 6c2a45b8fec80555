# 70 M, 384 G as published, 349 G as counted (docs/models.md says why); 48.7 box / 43.7 mask AP
# published by VMamba for mask_rcnn_vmamba_official.py
_base_ = './mask_rcnn_vmamba_tiny.py'
model = dict(
    backbone=dict(
        arch='small_s2l15',
        drop_path_rate=0.3,  # VMamba's
        init_cfg=dict(
            checkpoint='https://github.com/MzeroMiko/VMamba/releases/download/%23v2cls/vssm_small_0229_ckpt_epoch_222.pth'
        ),
    ),
)
