# 28 M, 237 G; 44.1 box / 39.1 mask AP published by PlainMamba for another model, with an adapter (docs/models.md)
_base_ = '../_base_/mask_rcnn_1x.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='PlainMamba',
        arch='l1',
        drop_path_rate=0.1,  # PlainMamba's
        init_cfg=dict(
            type='Pretrained', checkpoint='https://huggingface.co/ChenhongyiYang/PlainMamba/resolve/main/l1.pth'
        ),
    ),
    neck=dict(in_channels=[192, 192, 192, 192]),  # one width at all strides
)
