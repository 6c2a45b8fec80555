# 48 M, 356 G; 46.0 box / 40.6 mask AP published by PlainMamba for another model, with an adapter (docs/models.md)
_base_ = './mask_rcnn_plain_mamba_l1.py'
model = dict(
    backbone=dict(
        arch='l2',
        drop_path_rate=0.2,  # PlainMamba's
        init_cfg=dict(checkpoint='https://huggingface.co/ChenhongyiYang/PlainMamba/resolve/main/l2.pth'),
    ),
    neck=dict(in_channels=[384, 384, 384, 384]),
)
