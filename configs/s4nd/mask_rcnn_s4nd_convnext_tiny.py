# 49 M, 275 G. Ours: S4ND's authors published neither detectors nor weights, so training starts from random weights;
# on ImageNet, they report 82.2 % for this backbone
_base_ = '../_base_/mask_rcnn_1x.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='S4NDConvNeXt',
        arch='tiny',
        drop_path_rate=0.4,  # ours: no detector was published; the value of ConvNeXt-T's config of mmdet
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
