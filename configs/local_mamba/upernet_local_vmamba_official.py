# LocalMamba's own recipe, to which its published scores belong (its repository, segmentation/configs/local_mamba): that
# of mmseg's Swin-T, in full precision for the tiny size. The size is an environment variable:
#   LOCALVMAMBA_SIZE=small python tools/train.py configs/local_mamba/upernet_local_vmamba_official.py
_base_ = './upernet_local_vmamba_{{$LOCALVMAMBA_SIZE:}}.py'
# a folder for each size; a config that inherits this one must set its own work_dir
work_dir = './work_dirs/upernet_local_vmamba_{{$LOCALVMAMBA_SIZE:}}_official'
model = dict(backbone=dict(official_bug=True))
optim_wrapper = dict(
    type='AmpOnCudaOptimWrapper' if '{{$LOCALVMAMBA_SIZE:}}' == 'small' else 'OptimWrapper',
    optimizer=dict(lr=6e-5),
    # no weight decay for parameters with 'norm' in their names
    paramwise_cfg=dict(_delete_=True, custom_keys=dict(norm=dict(decay_mult=0.0))),
)
