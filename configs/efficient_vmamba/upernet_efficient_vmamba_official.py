# EfficientVMamba's own recipe, as far as its paper tells (section 5.3; its repository has none for segmentation): that
# of VMamba, which is that of mmseg's Swin-T in full precision. The size is an environment variable:
#   EFFICIENTVMAMBA_SIZE=small python tools/train.py configs/efficient_vmamba/upernet_efficient_vmamba_official.py
_base_ = './upernet_efficient_vmamba_{{$EFFICIENTVMAMBA_SIZE:}}.py'
# a folder for each size; a config that inherits this one must set its own work_dir
work_dir = './work_dirs/upernet_efficient_vmamba_{{$EFFICIENTVMAMBA_SIZE:}}_official'
model = dict(
    backbone=dict(norm_eval=False),  # batch norms take their statistics from the images of a GPU
    # ours: not published; with these widths, the parameters and MACs are the published ones
    decode_head=dict(channels=dict(tiny=256, small=384, base=512)['{{$EFFICIENTVMAMBA_SIZE:}}']),
)
optim_wrapper = dict(
    type='OptimWrapper',  # full precision
    optimizer=dict(lr=6e-5),
    # no weight decay for parameters with 'norm' in their names
    paramwise_cfg=dict(_delete_=True, custom_keys=dict(norm=dict(decay_mult=0.0))),
)
