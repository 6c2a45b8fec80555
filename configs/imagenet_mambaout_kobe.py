# 9 M, 1.5 G; 80.0 top-1 in the paper
_base_ = './imagenet_mambaout_tiny.py'
model = dict(backbone=dict(arch='kobe', drop_path_rate=0.025))
