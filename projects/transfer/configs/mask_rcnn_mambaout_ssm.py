_base_ = './mask_rcnn_mambaout.py'
model = dict(backbone=dict(ssm=['rows']))
