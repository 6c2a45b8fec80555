# 27 M, 4.5 G; 82.7 top-1 in the paper. Any other backbone: model.backbone=dict(_delete_=True, type='VMamba', ...)
_base_ = './_base_/imagenet_300e.py'
model = dict(backbone=dict(type='MambaOut', arch='tiny', drop_path_rate=0.2))
