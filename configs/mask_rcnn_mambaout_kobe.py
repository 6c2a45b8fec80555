# The paper did not train this size on COCO
_base_ = './mask_rcnn_mambaout_femto.py'
model = dict(backbone=dict(arch='kobe', init_cfg=dict(checkpoint='hf-hub:timm/mambaout_kobe.in1k')))
