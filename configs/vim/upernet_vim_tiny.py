# 35 M, 888 G; 41.0 mIoU published by Vim for upernet_vim_official.py, whose heads are narrower
_base_ = '../_base_/upernet_160k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='Vim',
        arch='tiny',
        drop_path_rate=0.1,  # Vim's, in its detectors and segmentors of all sizes
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://huggingface.co/hustvl/Vim-tiny-midclstok/resolve/main/vim_t_midclstok_76p1acc.pth',
        ),
    ),
    decode_head=dict(in_channels=[192, 192, 192, 192]),  # one width at all strides
    auxiliary_head=dict(in_channels=192),
)
