# Attention, fully visible
_base_ = './probe_mambaout.py'
width = 64
model = dict(
    backbone=dict(
        _delete_=True, type='ViT', arch=dict(dim=width, depth=6, heads=4), out_indices=(2,)
    ),  # behind 4 blocks
    decode_head=dict(in_channels=width, channels=width),
)
