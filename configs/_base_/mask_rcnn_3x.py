# Mask R-CNN, 36 epochs on images of many sizes
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', './coco_3x.py']
