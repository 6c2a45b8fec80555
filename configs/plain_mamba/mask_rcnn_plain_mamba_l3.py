# 73 M, 492 G; 46.8 box / 41.2 mask AP published by PlainMamba for another model, with an adapter (docs/models.md)
_base_ = './mask_rcnn_plain_mamba_l1.py'
model = dict(
    backbone=dict(
        arch='l3',
        drop_path_rate=0.3,  # PlainMamba's
        init_cfg=dict(checkpoint='https://huggingface.co/ChenhongyiYang/PlainMamba/resolve/main/l3.pth'),
    ),
    neck=dict(in_channels=[448, 448, 448, 448]),
)
