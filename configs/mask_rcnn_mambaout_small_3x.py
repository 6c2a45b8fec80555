# Mask R-CNN 3x. The paper has 1x only: no score is published
_base_ = './mask_rcnn_mambaout_tiny_3x.py'
model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.4,  # ours: that of 1x
        init_cfg=dict(checkpoint='hf-hub:timm/mambaout_small.in1k'),
    ),
)
