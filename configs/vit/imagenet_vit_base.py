# 87 M, 17.5 G. Like the small one
_base_ = './imagenet_vit_small.py'
model = dict(backbone=dict(arch='base'))
