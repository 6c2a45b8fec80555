# PlainMamba's own recipe, to which its published scores belong (its repository, downstream/mmsegmentation/
# plain_mamba_seg_configs): all maps at stride 16, in full precision, with batch norms that are trained. The size, the
# last part of the other files' names, is an environment variable:
#   PLAINMAMBA_SIZE=l2 python tools/train.py configs/plain_mamba/upernet_plain_mamba_official.py
_base_ = './upernet_plain_mamba_{{$PLAINMAMBA_SIZE:}}.py'
# a folder for each size; a config that inherits this one must set its own work_dir
work_dir = './work_dirs/upernet_plain_mamba_{{$PLAINMAMBA_SIZE:}}_official'
model = dict(
    backbone=dict(strides=(16, 16, 16, 16), norm_eval=False),
    auxiliary_head=dict(in_index=3),
)
sync_bn = 'torch'  # the statistics of a batch on all GPUs, also in the stem
exempt = dict(decay_mult=0.0)
optim_wrapper = dict(
    type='OptimWrapper',  # full precision
    optimizer=dict(lr=6e-5),
    paramwise_cfg=dict(
        _delete_=True,
        custom_keys={
            'norm': exempt,
            'out_norms.3': dict(decay_mult=1.0),  # its official name, ln1, has no "norm" in it
            '.pos_embed': exempt,
            '.A_log': exempt,
            '.D': exempt,
            '.directions': exempt,
        },
    ),
)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='ResizeToMultiple', size_divisor=32),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
