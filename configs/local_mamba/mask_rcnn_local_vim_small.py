# 49 M, 320 G. No score published, and no weights released
_base_ = './mask_rcnn_local_vim_tiny.py'
model = dict(backbone=dict(arch='small', init_cfg=None), neck=dict(in_channels=[384, 384, 384, 384]))
