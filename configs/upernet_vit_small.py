# 54 M, 1113 G; ours: fully-visible attention (the paper's Figure 3), which the paper did not train on ADE20K, under the
# recipe of MambaOut. It spares norms alone, so that positions decay.
_base_ = './_base_/upernet_160k.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='ViT',
        arch='small',
        drop_path_rate=0.1,  # ours: that of mmseg's UperNet with DeiT, and of DeiT's ImageNet training
        # ours: DeiT's, which have seen ImageNet-1K alone, as MambaOut's have, by the same mean and deviation as here
        init_cfg=dict(type='Pretrained', checkpoint='hf-hub:timm/deit_small_patch16_224.fb_in1k'),
    ),
    decode_head=dict(in_channels=[384, 384, 384, 384]),  # one width at all strides
    auxiliary_head=dict(in_channels=384),
)
