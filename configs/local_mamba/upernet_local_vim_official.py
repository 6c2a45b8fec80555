# LocalMamba's own recipe, to which its published scores belong (its repository, segmentation/configs/local_mamba): that
# of mmseg's UperNet with ViT-B, in full precision. The size is an environment variable:
#   LOCALVIM_SIZE=small python tools/train.py configs/local_mamba/upernet_local_vim_official.py
_base_ = './upernet_local_vim_{{$LOCALVIM_SIZE:}}.py'
# a folder for each size; a config that inherits this one must set its own work_dir
work_dir = './work_dirs/upernet_local_vim_{{$LOCALVIM_SIZE:}}_official'
model = dict(
    backbone=dict(
        # its config for the small size has the orders of the tiny one
        arch='small_searched' if '{{$LOCALVIM_SIZE:}}' == 'small' else 'tiny',
        strides=(16, 16, 16, 16),
        use_residual_as_feature=False,
        official_bug=True,
    ),
    auxiliary_head=dict(in_index=3),
)
exempt = dict(decay_mult=0.0)  # no weight decay for positions, and for parameters with 'norm' in their names
optim_wrapper = dict(
    type='OptimWrapper',  # full precision
    optimizer=dict(lr=6e-5),
    paramwise_cfg=dict(_delete_=True, custom_keys=dict(pos_embed=exempt, norm=exempt)),
)
