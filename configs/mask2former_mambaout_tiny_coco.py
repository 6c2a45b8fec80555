# The paper has no Mask2Former: no score is published
_base_ = './_base_/mask2former_coco_50e.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='MambaOut',
        arch='tiny',
        drop_path_rate=0.3,  # ours: the value of mmdet's Swin config
        init_cfg=dict(type='Pretrained', checkpoint='hf-hub:timm/mambaout_tiny.in1k'),
    ),
    panoptic_head=dict(in_channels=[96, 192, 384, 576]),
)
