# EfficientVMamba's own recipe (its repository, detection/configs/efficient): that of mmdet's Swin-T, in fp16. The paper
# (section 5.2) differs: learning rate 1e-5, lowered after epochs 9 and 11, drop path 0.2 and images of several scales.
# The size is an environment variable:
#   EFFICIENTVMAMBA_SIZE=small python tools/train.py configs/efficient_vmamba/mask_rcnn_efficient_vmamba_official.py
_base_ = './mask_rcnn_efficient_vmamba_{{$EFFICIENTVMAMBA_SIZE:}}.py'
# a folder for each size; a config that inherits this one must set its own work_dir
work_dir = './work_dirs/mask_rcnn_efficient_vmamba_{{$EFFICIENTVMAMBA_SIZE:}}_official'
# ours: not published; with neck and heads of half the width, tiny has the published 11 M and 60 G
width = 128 if '{{$EFFICIENTVMAMBA_SIZE:}}' == 'tiny' else 256
model = dict(
    backbone=dict(
        drop_path_rate=0.1,  # the default of the official code, whose configs name none
        norm_eval=False,  # batch norms take their statistics from the images of a GPU
    ),
    neck=dict(out_channels=width),
    rpn_head=dict(in_channels=width, feat_channels=width),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=width),
        bbox_head=dict(in_channels=width, fc_out_channels=4 * width),
        mask_roi_extractor=dict(out_channels=width),
        mask_head=dict(in_channels=width, conv_out_channels=width),
    ),
)
train_dataloader = dict(batch_size=4)  # on 4 GPUs, as in the repository's configs of tiny and base
optim_wrapper = dict(
    # no weight decay for parameters with 'norm' in their names
    paramwise_cfg=dict(_delete_=True, custom_keys=dict(norm=dict(decay_mult=0.0))),
)
