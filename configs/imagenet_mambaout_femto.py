# 7 M, 1.2 G; 78.9 top-1 in the paper
_base_ = './imagenet_mambaout_tiny.py'
model = dict(backbone=dict(arch='femto', drop_path_rate=0.025))
