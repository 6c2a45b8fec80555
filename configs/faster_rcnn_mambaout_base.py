# For boxes without masks. The paper has no Faster R-CNN: no score is published
_base_ = './faster_rcnn_mambaout_tiny.py'
model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.6,  # ours: that of Mask R-CNN
        init_cfg=dict(checkpoint='hf-hub:timm/mambaout_base.in1k@2b222e33224daef82dfc0ad7c140b3c5b441d021'),
    ),
    neck=dict(in_channels=[128, 256, 512, 768]),
)
