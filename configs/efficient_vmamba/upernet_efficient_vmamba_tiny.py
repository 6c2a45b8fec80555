# 35 M, 858 G as counted; 38.9 mIoU single-scale, 39.3 multi-scale, 14 M and 230 G published by EfficientVMamba for
# upernet_efficient_vmamba_official.py, whose head is narrower
_base_ = '../_base_/upernet_160k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='EfficientVMamba',
        arch='tiny',
        drop_path_rate=0.2,  # ours: not published for UperNet; EfficientVMamba's value for its detectors
        # the file's name in the repository's configs; download it from hf.co/TerryPei/EfficientVMamba-Tiny
        init_cfg=dict(type='Pretrained', checkpoint='efficient_vmamba_tiny.ckpt'),
    ),
    decode_head=dict(in_channels=[48, 96, 192, 384]),
    auxiliary_head=dict(in_channels=192),
)
