# Ours: nobody has published weights of a causal ViT. This starts from those of its fully-visible twin, which fit name
# by name but were trained without the mask: a part of what the mask costs here may be this start. From scratch, where
# nothing but the mask differs: --cfg-options model.backbone.init_cfg=None, for both
_base_ = './mask_rcnn_vit_small.py'
model = dict(backbone=dict(causal=True))
