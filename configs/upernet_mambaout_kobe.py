# The paper did not train this size on ADE20K
_base_ = './upernet_mambaout_femto.py'
model = dict(backbone=dict(arch='kobe', init_cfg=dict(checkpoint='hf-hub:timm/mambaout_kobe.in1k')))
