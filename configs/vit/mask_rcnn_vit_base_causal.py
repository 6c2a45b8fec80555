# Ours. It starts from the weights of the fully-visible model, like the small one
_base_ = './mask_rcnn_vit_base.py'
model = dict(backbone=dict(causal=True))
