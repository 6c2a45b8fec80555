# 59 M, 1003 G; 46.4 mIoU single-scale, 47.5 multi-scale published by LocalMamba for upernet_local_vim_official.py
# No weights of this size are released
_base_ = './upernet_local_vim_tiny.py'
model = dict(
    backbone=dict(arch='small', init_cfg=None),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384),
)
