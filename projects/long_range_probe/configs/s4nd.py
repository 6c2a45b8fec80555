# S4ND-ConvNeXt: convolutions with kernels as large as the map
_base_ = './mambaout.py'
model = dict(
    backbone=dict(_delete_=True, type='S4NDConvNeXt', arch=dict(depths=(1, 1, 2), dims=(24, 48, 96)), out_indices=(2,))
)
