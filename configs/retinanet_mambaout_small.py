# The paper has no RetinaNet: no score is published
_base_ = './retinanet_mambaout_tiny.py'
model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.4,  # ours: that of Mask R-CNN
        init_cfg=dict(checkpoint='hf-hub:timm/mambaout_small.in1k'),
    ),
)
