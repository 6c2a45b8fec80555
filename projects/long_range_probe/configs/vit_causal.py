# Causal attention: a cell sees itself and the cells before it, row by row
_base_ = './vit.py'
model = dict(backbone=dict(causal=True))
