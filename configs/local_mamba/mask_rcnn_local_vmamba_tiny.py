# 45 M, 289 G; 46.7 box / 42.2 mask AP published by LocalMamba for mask_rcnn_local_vmamba_official.py
# No weights of this size are released
_base_ = '../_base_/mask_rcnn_1x.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='LocalVMamba',
        arch='tiny',
        drop_path_rate=0.2,  # LocalMamba's: its configs keep Swin-T's value for both sizes
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
