# Ours: nobody has published weights of a causal ViT, so this starts from those of the fully-visible model. All of them
# fit, but they were trained without the mask, so the mask may cost more here than it would after its own pre-training.
# For models that differ in nothing but the mask, train both from scratch: --cfg-options model.backbone.init_cfg=None
_base_ = './mask_rcnn_vit_small.py'
model = dict(backbone=dict(causal=True))
