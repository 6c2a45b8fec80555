# The same blocks with the SSM put back: it scans every map in four orders
_base_ = './mambaout.py'
model = dict(backbone=dict(ssm=['rows', 'columns', 'rows_reversed', 'columns_reversed']))
