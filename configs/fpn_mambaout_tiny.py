# The paper has UperNet only: no score is published
_base_ = './_base_/fpn_40k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='MambaOut',
        arch='tiny',
        drop_path_rate=0.3,  # ours: UperNet's
        init_cfg=dict(type='Pretrained', checkpoint='hf-hub:timm/mambaout_tiny.in1k'),
    ),
    neck=dict(in_channels=[96, 192, 384, 576]),
)
