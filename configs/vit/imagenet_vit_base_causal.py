# Each patch attends to itself and to earlier ones only (paper, Eq. 5)
_base_ = './imagenet_vit_base.py'
model = dict(backbone=dict(causal=True))
