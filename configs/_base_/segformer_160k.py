# SegFormer's head with the data and the schedule of UperNet, and the optimizer of mmseg's SegFormer configs: a learning
# rate of 6e-5, and ten times that for the head
_base_ = ['mmseg::_base_/models/segformer_mit-b0.py', './ade20k_160k.py']
model = dict(data_preprocessor=dict(size=(512, 512)), decode_head=dict(num_classes=150))
optim_wrapper = dict(optimizer=dict(lr=6e-5), paramwise_cfg=dict(custom_keys={'head': dict(lr_mult=10.0)}))
