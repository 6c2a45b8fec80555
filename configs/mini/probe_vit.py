# Attention, fully visible. Of 6 blocks, the map of stride 16 lies behind 4, and the others are not built
_base_ = './probe_mambaout.py'
width = 64
model = dict(
    backbone=dict(_delete_=True, type='ViT', arch=dict(dim=width, depth=6, heads=4), out_indices=(2,)),
    decode_head=dict(in_channels=width, channels=width),
)
