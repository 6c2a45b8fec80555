# 36 M, 913 G; 44.1 mIoU single-scale published by PlainMamba for upernet_plain_mamba_official.py
_base_ = '../_base_/upernet_160k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='PlainMamba',
        arch='l1',
        drop_path_rate=0.1,  # PlainMamba's
        init_cfg=dict(
            type='Pretrained', checkpoint='https://huggingface.co/ChenhongyiYang/PlainMamba/resolve/main/l1.pth'
        ),
    ),
    decode_head=dict(in_channels=[192, 192, 192, 192]),  # one width at all strides
    auxiliary_head=dict(in_channels=192),
)
