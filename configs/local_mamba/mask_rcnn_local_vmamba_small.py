# 69 M, 406 G; 48.4 box / 43.2 mask AP published by LocalMamba for mask_rcnn_local_vmamba_official.py
_base_ = './mask_rcnn_local_vmamba_tiny.py'
model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/hunto/LocalMamba/releases/download/v1.0.0/local_vssm_small.ckpt',
        ),
    ),
)
