# 58 M, 1039 G; 46.8 mIoU single-scale published by PlainMamba for upernet_plain_mamba_official.py
_base_ = './upernet_plain_mamba_l1.py'
model = dict(
    backbone=dict(
        arch='l2',
        drop_path_rate=0.2,  # PlainMamba's
        init_cfg=dict(checkpoint='https://huggingface.co/ChenhongyiYang/PlainMamba/resolve/main/l2.pth'),
    ),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384),
)
