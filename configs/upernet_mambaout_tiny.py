# 54 M, 938 G; 47.4 mIoU single-scale, 48.6 multi-scale in the paper
_base_ = './_base_/upernet_160k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='MambaOut',
        arch='tiny',
        drop_path_rate=0.3,  # the author's (repository, issue #251)
        init_cfg=dict(type='Pretrained', checkpoint='hf-hub:timm/mambaout_tiny.in1k'),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 576]),  # stage 4 is 6 x 96, not 8 x 96
    auxiliary_head=dict(in_channels=384),
)
