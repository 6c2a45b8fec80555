# The recipe of all Mask R-CNN configs, whatever the backbone: mmdet's Mask R-CNN with the paper's data, schedule and
# optimizer. A backbone's config sets model.backbone and model.neck.in_channels, and nothing else.
_base_ = ['mmdet::_base_/models/mask-rcnn_r50_fpn.py', './coco_1x.py']
