# Ours: fine-tuning of the published weights at 288 px, with learning rates that fall from the head to the stem. The
# values are those with which ConvNeXt (arXiv 2201.03545) was fine-tuned on ImageNet-1K, and are not tuned for MambaOut.
# For classes of your own, set model.num_classes and dataset.root of all data loaders, as docs/imagenet.md shows. The
# head starts from random weights.
_base_ = './imagenet_mambaout_tiny.py'
size = 288
model = dict(
    loss=dict(_delete_=True, type='LabelSmoothingCrossEntropy', smoothing=0.1),
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='hf-hub:timm/mambaout_tiny.in1k')),
)
train_dataloader = dict(
    batch_size=32,  # on 8 GPUs, with 2 accumulated batches
    dataset=dict(transform=dict(input_size=size)),
    collate_fn=dict(_delete_=True, type='collate_images'),  # without mixup and CutMix
)
val_dataloader = dict(dataset=dict(transform=dict(input_size=size)))
test_dataloader = val_dataloader

optim_wrapper = dict(
    constructor='LayerDecayOptimWrapperConstructor',
    optimizer=dict(lr=5e-5, weight_decay=1e-8),
    paramwise_cfg=dict(decay_rate=0.8),
    accumulative_counts=2,
)
param_scheduler = dict(end=30, warmup=0, cooldown=0, min_lr=1e-6)
train_cfg = dict(max_epochs=30)
auto_scale_lr = dict(base_batch_size=512)
