# The paper has no RetinaNet: no score is published
_base_ = './_base_/retinanet_1x.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='MambaOut',
        arch='tiny',
        out_indices=(1, 2, 3),
        drop_path_rate=0.2,  # ours: that of Mask R-CNN
        init_cfg=dict(type='Pretrained', checkpoint='hf-hub:timm/mambaout_tiny.in1k'),
    ),
    neck=dict(in_channels=[192, 384, 576]),
)
