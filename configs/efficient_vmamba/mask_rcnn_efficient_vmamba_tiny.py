# 26 M, 186 G as counted; 35.6 box / 33.2 mask AP, 11 M and 60 G published by EfficientVMamba for
# mask_rcnn_efficient_vmamba_official.py, whose heads are narrower
_base_ = '../_base_/mask_rcnn_1x.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='EfficientVMamba',
        arch='tiny',
        drop_path_rate=0.2,  # EfficientVMamba's, for all sizes (paper, section 5.2)
        # the file's name in the repository's configs; download it from hf.co/TerryPei/EfficientVMamba-Tiny
        init_cfg=dict(type='Pretrained', checkpoint='efficient_vmamba_tiny.ckpt'),
    ),
    neck=dict(in_channels=[48, 96, 192, 384]),
)
