# VMamba's own recipe, to which its published scores belong (its repository, detection/configs/vssm and vssm1): that
# of mmdet's Swin-T, in full precision. The size, the last part of the other files' names, is an environment variable:
#   VMAMBA_SIZE=small_s2l15 python tools/train.py configs/vmamba/mask_rcnn_vmamba_official.py
_base_ = './mask_rcnn_vmamba_{{$VMAMBA_SIZE:}}.py'
# a folder for each size; a config that inherits this one must set its own work_dir
work_dir = './work_dirs/mask_rcnn_vmamba_{{$VMAMBA_SIZE:}}_official'
optim_wrapper = dict(
    type='OptimWrapper',  # full precision
    # no weight decay for parameters with 'norm' in their names
    paramwise_cfg=dict(_delete_=True, custom_keys=dict(norm=dict(decay_mult=0.0))),
)
