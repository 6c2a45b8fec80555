# LocalMamba's own recipe, to which its published scores belong (its repository, detection/configs/local_mamba): that of
# mmdet's Swin-T, in fp16. The size is an environment variable:
#   LOCALVMAMBA_SIZE=small python tools/train.py configs/local_mamba/mask_rcnn_local_vmamba_official.py
_base_ = './mask_rcnn_local_vmamba_{{$LOCALVMAMBA_SIZE:}}.py'
# a folder for each size; a config that inherits this one must set its own work_dir
work_dir = './work_dirs/mask_rcnn_local_vmamba_{{$LOCALVMAMBA_SIZE:}}_official'
model = dict(backbone=dict(official_bug=True))
# no weight decay for parameters with 'norm' in their names
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True, custom_keys=dict(norm=dict(decay_mult=0.0))))
