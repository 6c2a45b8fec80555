# 112 M, 1178 G; 49.6 mIoU single-scale, 51.0 multi-scale in the paper
_base_ = './upernet_mambaout_tiny.py'
model = dict(
    backbone=dict(
        arch='base',
        drop_path_rate=0.6,  # the author's (repository, issue #251)
        init_cfg=dict(checkpoint='hf-hub:timm/mambaout_base.in1k@2b222e33224daef82dfc0ad7c140b3c5b441d021'),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 768]),
    auxiliary_head=dict(in_channels=512),
)
