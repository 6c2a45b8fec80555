# The ImageNet recipe on `tools/make_mini_dataset.py imagenet data/mini/imagenet`, small enough for two CPU cores. Its
# checkpoint fits the backbones of the mini detector and the mini segmentor.
_base_ = '../imagenet_mambaout_tiny.py'

num_classes, size, epochs = 6, 96, 20
model = dict(
    num_classes=num_classes,
    backbone=dict(
        arch=dict(_delete_=True, depths=(1, 1, 3, 1), dims=(32, 64, 128, 192)),
        drop_path_rate=0.0,
    ),
)

data_root = 'data/mini/imagenet'
train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    # crops keep most of an object: small ones of so few images say little
    dataset=dict(root=data_root, transform=dict(input_size=size, scale=(0.35, 1.0))),
    collate_fn=dict(mixup=dict(num_classes=num_classes)),
)
val_dataloader = dict(num_workers=2, dataset=dict(root=data_root, transform=dict(input_size=size)))
test_dataloader = val_dataloader

# Training is short, so the batch is small, and the learning rate is that of the other mini models
optim_wrapper = dict(optimizer=dict(lr=1.5e-3), accumulative_counts=2)
param_scheduler = dict(end=epochs, warmup=2, cooldown=1)
train_cfg = dict(max_epochs=epochs, val_interval=5)
default_hooks = dict(logger=dict(interval=10))
auto_scale_lr = dict(base_batch_size=32)
randomness = dict(seed=0)
