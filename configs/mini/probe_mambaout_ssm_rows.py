# The same blocks with the SSM put back, which scans once, row by row, what the convolution made
_base_ = './probe_mambaout.py'
model = dict(backbone=dict(ssm=['rows']))
