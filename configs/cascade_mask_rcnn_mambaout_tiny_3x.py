# The paper has no Cascade Mask R-CNN: no score is published
_base_ = './_base_/cascade_mask_rcnn_3x.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='MambaOut',
        arch='tiny',
        drop_path_rate=0.2,  # ours: that of Mask R-CNN 1x
        init_cfg=dict(type='Pretrained', checkpoint='hf-hub:timm/mambaout_tiny.in1k'),
    ),
    neck=dict(in_channels=[96, 192, 384, 576]),
)
