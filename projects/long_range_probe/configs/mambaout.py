# One map at stride 16 is read through a head that sees one cell, so nothing but the backbone can bring a cue to its
# targets. The other configs of this folder set the backbone and its channels, nothing else. They read what
# `projects/long_range_probe/cues.py data/mini/cue` draws. Scores say nothing about COCO or ADE20K.
_base_ = '../../../configs/_base_/upernet_160k.py'

classes = ('background', 'first', 'second')
width = 96
model = dict(
    data_preprocessor=dict(size=(48, 512)),
    backbone=dict(
        _delete_=True,
        type='MambaOut',
        # theoretical receptive field: 3 + 12 + 4 + 24 + 8 + 2 * 48 = 147 pixels to each side of a cell's left border
        arch=dict(depths=(1, 1, 2), dims=(24, 48, width)),
        out_indices=(2,),
    ),
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        in_channels=width,
        in_index=0,
        channels=width,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0.0,
        num_classes=len(classes),
        align_corners=False,
        init_cfg=dict(type='Normal', std=0.1, override=dict(name='conv_seg')),
        loss_decode=dict(type='CrossEntropyLoss', class_weight=[0.02, 1.0, 1.0]),  # 1 pixel in 33 is a target's
    ),
    auxiliary_head=None,
)

data_root = 'data/mini/cue'
pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
dataset = dict(_delete_=True, type='FolderDataset', data_root=data_root, metainfo=dict(classes=classes))
dataset |= dict(pipeline=pipeline)
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    sampler=dict(shuffle=False),  # pairs that differ in the colour of the cue stay in one batch
    dataset=dict(data_prefix=dict(img_path='images/training', seg_map_path='annotations/training'), **dataset),
)
test_dataloader = dict(
    num_workers=1,
    dataset=dict(data_prefix=dict(img_path='images/validation', seg_map_path='annotations/validation'), **dataset),
)
val_dataloader, val_evaluator, val_cfg = None, None, None

iterations = 600
optim_wrapper = dict(optimizer=dict(lr=3e-3, betas=(0.9, 0.95)), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=60),
    dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=False, begin=60, end=iterations),
]
train_cfg = dict(max_iters=iterations)
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=200, save_best=None),
)
auto_scale_lr = dict(base_batch_size=8)
randomness = dict(seed=0)
