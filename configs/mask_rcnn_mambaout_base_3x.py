# Mask R-CNN 3x. The paper has 1x only: no score is published
_base_ = './mask_rcnn_mambaout_tiny_3x.py'
model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.6,  # ours: that of 1x
        init_cfg=dict(checkpoint='hf-hub:timm/mambaout_base.in1k@2b222e33224daef82dfc0ad7c140b3c5b441d021'),
    ),
    neck=dict(in_channels=[128, 256, 512, 768]),
)
