# 85 M, 15.8 G; 84.2 top-1 in the paper
_base_ = './imagenet_mambaout_tiny.py'
model = dict(backbone=dict(arch='base', drop_path_rate=0.6))
