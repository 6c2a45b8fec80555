# 28 M, 213 G. No score published: Vim's authors use ViTDet's Cascade Mask R-CNN (45.7 box / 39.2 mask AP)
_base_ = '../_base_/mask_rcnn_1x.py'
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
    neck=dict(in_channels=[192, 192, 192, 192]),  # one width at all strides
)
