# 84 M, 1181 G; 49.1 mIoU single-scale published by PlainMamba for upernet_plain_mamba_official.py
_base_ = './upernet_plain_mamba_l1.py'
model = dict(
    backbone=dict(
        arch='l3',
        drop_path_rate=0.3,  # PlainMamba's
        init_cfg=dict(checkpoint='https://huggingface.co/ChenhongyiYang/PlainMamba/resolve/main/l3.pth'),
    ),
    decode_head=dict(in_channels=[448, 448, 448, 448]),
    auxiliary_head=dict(in_channels=448),
)
