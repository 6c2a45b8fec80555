# The same blocks with the SSM put back, which reads every map in four orders
_base_ = './probe_mambaout.py'
model = dict(backbone=dict(ssm=['rows', 'columns', 'rows_reversed', 'columns_reversed']))
