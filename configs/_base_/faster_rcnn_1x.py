# Faster R-CNN: Mask R-CNN and its recipe without masks
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', './coco_boxes_1x.py']
