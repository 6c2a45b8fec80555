# The same blocks with the SSM put back: it scans the output of the convolution once, row by row
_base_ = './mambaout.py'
model = dict(backbone=dict(ssm=['rows']))
