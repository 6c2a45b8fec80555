# Semantic FPN with the optimizer of mmseg's config of PoolFormer, another model of MambaOut's first author: AdamW, a
# learning rate of 2e-4, a weight decay of 1e-4 for all parameters, a global batch of 32, and 40,000 iterations. The
# data are UperNet's: test images are not resized to multiples of 32
_base_ = ['mmseg::_base_/models/fpn_r50.py', './ade20k_160k.py']
model = dict(data_preprocessor=dict(size=(512, 512)), pretrained=None, decode_head=dict(num_classes=150))
train_dataloader = dict(batch_size=4)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=2e-4, weight_decay=1e-4), paramwise_cfg=dict(norm_decay_mult=1.0)
)
param_scheduler = [dict(type='PolyLR', power=0.9, begin=0, end=40000, eta_min=0.0, by_epoch=False)]
train_cfg = dict(max_iters=40000, val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000))
auto_scale_lr = dict(base_batch_size=32)
