# Vim's own recipe, to which its published scores belong (its repository, seg/configs/vim/upernet and the launch scripts
# in seg/scripts, which set other values than the paper). The size is an environment variable:
#   VIM_SIZE=small python tools/train.py configs/vim/upernet_vim_official.py
_base_ = './upernet_vim_{{$VIM_SIZE:}}.py'
# a folder for each size; a config that inherits this one must set its own work_dir
work_dir = './work_dirs/upernet_vim_{{$VIM_SIZE:}}_official'
small = '{{$VIM_SIZE:}}' == 'small'

model = dict(
    # as in the repository: maps of the tiny size are the mixers' outputs, and there are no output norms
    backbone=dict(use_residual_as_feature=small, out_norm=False),
    decode_head=dict(channels=384 if small else 192),
    test_cfg=dict(mode='slide', crop_size=(512, 512), stride=(341, 341)),
)
# a global batch of 32: 4 images on each of 8 GPUs; for the repository's 4 x 8, set train_dataloader.batch_size=8
train_dataloader = dict(batch_size=4)
auto_scale_lr = dict(base_batch_size=32)

# The repository has a layer-wise decay of 0.92 (tiny) or 0.95 (small). It finds layers by the name 'blocks', but Vim's
# are called 'layers'. Only the layer before them, patch embedding and positions, therefore has a lower learning rate
stem = (0.95 if small else 0.92) ** 25
optim_wrapper = dict(
    type='OptimWrapper',  # full precision
    optimizer=dict(lr=1e-4 if small else 2e-4, weight_decay=0.05 if small else 0.1),
    paramwise_cfg=dict(
        flat_decay_mult=0.0,  # no weight decay for vectors: norms, biases and D
        custom_keys={
            'backbone.pos_embed': dict(lr_mult=stem),
            'backbone.patch_embed.proj.weight': dict(lr_mult=stem),
            'backbone.patch_embed.proj.bias': dict(lr_mult=stem, decay_mult=0.0),
        },
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=60000),
]
train_cfg = dict(max_iters=60000, val_interval=6000)  # ours: the repository validates and saves every 1000 iterations
default_hooks = dict(checkpoint=dict(interval=6000))
