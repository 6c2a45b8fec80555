# 61 M, 957 G. Ours: S4ND's authors published neither segmentors nor weights, so training starts from random weights;
# on ImageNet, they report 82.2 % for this backbone
_base_ = '../_base_/upernet_160k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='S4NDConvNeXt',
        arch='tiny',
        drop_path_rate=0.4,  # ours: no segmentor was published; the value of ConvNeXt-T's config of mmseg
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
