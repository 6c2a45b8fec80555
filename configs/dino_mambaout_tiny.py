# The paper has no DINO: no score is published
_base_ = './_base_/dino_12e.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='MambaOut',
        arch='tiny',
        out_indices=(1, 2, 3),
        drop_path_rate=0.2,  # ours: the value of mmdet's Swin config
        init_cfg=dict(type='Pretrained', checkpoint='hf-hub:timm/mambaout_tiny.in1k'),
    ),
    neck=dict(in_channels=[192, 384, 576]),
)
