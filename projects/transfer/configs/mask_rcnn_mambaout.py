# The mini detector for two epochs, from the weights of a classifier. From scratch: model.backbone.init_cfg=None
_base_ = '../../../configs/mini/mask_rcnn_mambaout_mini.py'
model = dict(backbone=dict(init_cfg=dict(_delete_=True, type='Pretrained', checkpoint='no checkpoint is named')))
epochs = 2
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=30),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=epochs, T_max=epochs, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=epochs, val_interval=1)
