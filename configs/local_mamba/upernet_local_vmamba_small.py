# 81 M, 1087 G; 50.0 mIoU single-scale, 51.0 multi-scale published by LocalMamba for upernet_local_vmamba_official.py
_base_ = './upernet_local_vmamba_tiny.py'
model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.2,  # LocalMamba's
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/hunto/LocalMamba/releases/download/v1.0.0/local_vssm_small.ckpt',
        ),
    ),
)
