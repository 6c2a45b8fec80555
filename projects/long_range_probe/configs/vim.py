# Vim: its blocks read the patches row by row in both directions. The map is the output of the 4th of 6 blocks; the last
# two are not built
_base_ = './mambaout.py'
width = 64
model = dict(
    backbone=dict(_delete_=True, type='Vim', arch=dict(dim=width, depth=6), out_indices=(2,)),
    decode_head=dict(in_channels=width, channels=width),
)
