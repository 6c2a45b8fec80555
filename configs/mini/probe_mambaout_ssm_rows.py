# The same blocks with the SSM put back, which reads row by row: a cell sees those before it
_base_ = './probe_mambaout.py'
model = dict(backbone=dict(ssm=['rows']))
