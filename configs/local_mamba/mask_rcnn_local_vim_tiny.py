# 28 M, 221 G. No score published: LocalMamba's authors use ViTDet's Cascade Mask R-CNN (45.3 box / 39.9 mask AP)
_base_ = '../_base_/mask_rcnn_1x.py'
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
    neck=dict(in_channels=[192, 192, 192, 192]),  # one width at all strides
)
