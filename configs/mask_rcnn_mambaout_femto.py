# The paper did not train this size on COCO
_base_ = './mask_rcnn_mambaout_tiny.py'
model = dict(
    backbone=dict(
        arch='femto',
        drop_path_rate=0.025,  # ours: not published for COCO; the authors' value for ImageNet
        init_cfg=dict(checkpoint='hf-hub:timm/mambaout_femto.in1k'),
    ),
    neck=dict(in_channels=[48, 96, 192, 288]),
)
