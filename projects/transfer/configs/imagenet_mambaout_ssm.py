# One order, as in Mamba: four of them take three times as long on a CPU
_base_ = './imagenet_mambaout.py'
model = dict(backbone=dict(ssm=['rows']))
