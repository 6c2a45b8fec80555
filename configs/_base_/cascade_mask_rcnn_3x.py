# Cascade Mask R-CNN, 36 epochs on images of many sizes. Its three box heads are those of mmdet's ConvNeXt configs and
# of Swin's repository: four convolutions with batch norm, one linear layer, a box for each class, and a GIoU loss. The
# optimizer is that of Mask R-CNN and of Swin: no layer-wise decay, and half of ConvNeXt's learning rate.
_base_ = ['mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py', './coco_3x.py']

box_heads = [
    dict(
        type='ConvFCBBoxHead',
        num_shared_convs=4,
        num_shared_fcs=1,
        in_channels=256,
        conv_out_channels=256,
        fc_out_channels=1024,
        roi_feat_size=7,
        num_classes=80,
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[xy, xy, wh, wh]),
        reg_class_agnostic=False,
        reg_decoded_bbox=True,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=10.0),
    )
    for xy, wh in ((0.1, 0.2), (0.05, 0.1), (0.033, 0.067))
]
model = dict(roi_head=dict(bbox_head=box_heads))
