# The paper has no Cascade Mask R-CNN: no score is published
_base_ = './cascade_mask_rcnn_mambaout_tiny_3x.py'
model = dict(
    backbone=dict(
        arch='small',
        drop_path_rate=0.4,  # ours: that of Mask R-CNN 1x
        init_cfg=dict(checkpoint='hf-hub:timm/mambaout_small.in1k'),
    ),
)
