_base_ = './mask_rcnn_mambaout.py'
model = dict(backbone=dict(ssm=['rows', 'columns', 'rows_reversed', 'columns_reversed']))
