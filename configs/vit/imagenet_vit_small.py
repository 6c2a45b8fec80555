# 22 M, 4.6 G. The paper compares fully-visible with causal attention on ImageNet (Figure 3) under DeiT's recipe (arXiv
# 2012.12877; the values are those of main.py in github.com/facebookresearch/deit, 0282d2a). Ours:
# - the mean over all patches in place of a class token, which sees all patches only at the end of a causal sequence
# - rectangles are erased after mixup instead of before it, like in MambaOut's recipe
# - the learning rate follows the epoch; DeiT's program is one epoch late, so it trains the first two at warmup_lr
# - no averaged weights: DeiT's program keeps some, but tests the others
_base_ = '../_base_/imagenet_300e.py'
model = dict(backbone=dict(type='ViT', arch='small', drop_path_rate=0.1))
train_dataloader = dict(
    batch_size=256,  # on 4 GPUs
    num_workers=10,
    sampler=dict(_delete_=True, type='RepeatedAugSampler', num_repeats=3),
    dataset=dict(transform=dict(interpolation='bicubic')),
)
val_dataloader = dict(dataset=dict(transform=dict(crop_pct=0.875)))
test_dataloader = val_dataloader
optim_wrapper = dict(
    type='AmpOnCudaOptimWrapper',  # fp16 on a GPU, as DeiT's program; full precision on a CPU
    optimizer=dict(lr=1e-3),  # 5e-4 for a batch of 512
    paramwise_cfg=dict(custom_keys={'pos_embed': dict(decay_mult=0.0)}),
    accumulative_counts=1,
)
param_scheduler = dict(end=300, warmup=5, cooldown=0)
train_cfg = dict(max_epochs=300)
auto_scale_lr = dict(base_batch_size=1024)
randomness = dict(seed=0)
