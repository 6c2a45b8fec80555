# 36 M, 895 G; 43.4 mIoU single-scale, 44.4 multi-scale published by LocalMamba for upernet_local_vim_official.py
_base_ = '../_base_/upernet_160k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='LocalVim',
        arch='tiny',
        drop_path_rate=0.1,  # LocalMamba's, in its detectors and segmentors of both sizes
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/hunto/LocalMamba/releases/download/v1.0.0/local_vim_tiny.ckpt',
        ),
    ),
    decode_head=dict(in_channels=[192, 192, 192, 192]),  # one width at all strides
    auxiliary_head=dict(in_channels=192),
)
