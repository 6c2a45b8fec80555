# Attention over the cells before each, row by row
_base_ = './probe_vit.py'
model = dict(backbone=dict(causal=True))
