_base_ = './imagenet_mambaout.py'
model = dict(backbone=dict(ssm=['rows', 'columns', 'rows_reversed', 'columns_reversed']))
