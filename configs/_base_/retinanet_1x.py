# RetinaNet, 12 epochs. mmdet's Swin config trains it by SGD with a learning rate of 0.01. AdamW with Mask R-CNN's
# values is ours
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py', './coco_boxes_1x.py']
model = dict(neck=dict(start_level=0))  # of the three maps at strides 8, 16 and 32
