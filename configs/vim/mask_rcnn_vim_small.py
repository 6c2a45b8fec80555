# 47 M, 311 G. No score published, as for the tiny one
_base_ = './mask_rcnn_vim_tiny.py'
model = dict(
    backbone=dict(
        arch='small',
        init_cfg=dict(
            checkpoint='https://huggingface.co/hustvl/Vim-small-midclstok/resolve/main/vim_s_midclstok_80p5acc.pth'
        ),
    ),
    neck=dict(in_channels=[384, 384, 384, 384]),  # one width at all strides
)
