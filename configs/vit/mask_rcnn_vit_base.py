# 114 M, 879 G. Ours, like the small one
_base_ = './mask_rcnn_vit_small.py'
model = dict(
    backbone=dict(
        arch='base',
        init_cfg=dict(checkpoint='hf-hub:timm/deit_base_patch16_224.fb_in1k'),
    ),
    neck=dict(in_channels=[768, 768, 768, 768]),  # one width at all strides
)
