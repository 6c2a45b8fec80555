# For boxes without masks. The paper has no Faster R-CNN: no score is published
_base_ = './_base_/faster_rcnn_1x.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='MambaOut',
        arch='tiny',
        drop_path_rate=0.2,  # ours: that of Mask R-CNN
        init_cfg=dict(type='Pretrained', checkpoint='hf-hub:timm/mambaout_tiny.in1k'),
    ),
    neck=dict(in_channels=[96, 192, 384, 576]),
)
