# The recipe of all UperNet configs, whatever the backbone: mmseg's UperNet with the paper's data, schedule and
# optimizer. A backbone's config sets model.backbone and the channel lists of the heads, and nothing else.
_base_ = ['mmseg::_base_/models/upernet_swin.py', './ade20k_160k.py']
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    decode_head=dict(num_classes=150),
    auxiliary_head=dict(num_classes=150),
    test_cfg=dict(mode='whole'),  # ours: not published; the mode of mmseg's Swin config
)
