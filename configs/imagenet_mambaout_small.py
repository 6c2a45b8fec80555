# 48 M, 9.0 G; 84.1 top-1 in the paper
_base_ = './imagenet_mambaout_tiny.py'
model = dict(backbone=dict(arch='small', drop_path_rate=0.4))
