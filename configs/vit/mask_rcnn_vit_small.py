# 44 M, 425 G. Ours: the paper compares fully-visible attention on ImageNet alone (Figure 3). Here it has
# MambaOut's recipe, in which everything but norms has weight decay, position embeddings included
_base_ = '../_base_/mask_rcnn_1x.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='ViT',
        arch='small',
        drop_path_rate=0.1,  # ours: the value of mmseg's UperNet with DeiT and of DeiT's ImageNet training
        # ours: DeiT's weights, trained on ImageNet-1K alone, like MambaOut's, with the mean and deviation used here
        init_cfg=dict(type='Pretrained', checkpoint='hf-hub:timm/deit_small_patch16_224.fb_in1k'),
    ),
    neck=dict(in_channels=[384, 384, 384, 384]),  # one width at all strides
)
