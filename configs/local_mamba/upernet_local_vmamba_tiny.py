# 57 M, 967 G; 47.9 mIoU single-scale, 49.1 multi-scale published by LocalMamba for upernet_local_vmamba_official.py
# No weights of this size are released
_base_ = '../_base_/upernet_160k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='LocalVMamba',
        arch='tiny',
        drop_path_rate=0.1,  # LocalMamba's
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
