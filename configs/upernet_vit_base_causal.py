# Ours; its weights are those of its fully-visible twin, as in the small one
_base_ = './upernet_vit_base.py'
model = dict(backbone=dict(causal=True))
