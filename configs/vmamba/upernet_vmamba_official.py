# VMamba's own recipe, to which its published scores belong (its repository, segmentation/configs/vssm and vssm1): that
# of mmseg's Swin-T, in full precision. The size, the last part of the other files' names, is an environment variable:
#   VMAMBA_SIZE=small_s2l15 python tools/train.py configs/vmamba/upernet_vmamba_official.py
_base_ = './upernet_vmamba_{{$VMAMBA_SIZE:}}.py'
# a folder for each size; a config that inherits this one must set its own work_dir
work_dir = './work_dirs/upernet_vmamba_{{$VMAMBA_SIZE:}}_official'
optim_wrapper = dict(
    type='OptimWrapper',  # full precision
    optimizer=dict(lr=6e-5),
    # no weight decay for parameters with 'norm' in their names
    paramwise_cfg=dict(_delete_=True, custom_keys=dict(norm=dict(decay_mult=0.0))),
)
