# 57 M, 993 G; 44.9 mIoU published by Vim for upernet_vim_official.py, whose heads are narrower
_base_ = './upernet_vim_tiny.py'
model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(
            checkpoint='https://huggingface.co/hustvl/Vim-small-midclstok/resolve/main/vim_s_midclstok_80p5acc.pth'
        ),
    ),
    decode_head=dict(in_channels=[384, 384, 384, 384]),  # one width at all strides
    auxiliary_head=dict(in_channels=384),
)
