"""Metrics that would count something else than they should, or fail after the first epoch, are refused before it."""

import dataclasses

import pytest
import torch
from mmdet.structures import DetDataSample
from mmseg.evaluation import IoUMetric

from backbones import UserError
from mmengine_plugin.checks.metric_settings import check_ignored_labels, check_masks, check_meta_keys, check_output_dir
from tests.mmengine_plugin.checks.small_samples import draw_masks, part_with

COCO, IOU = dict(type='FastCocoMetric', metric=['bbox', 'segm']), dict(type='IoUMetric')
NO_MASKS = {'model.roi_head.mask_head': None, 'model.roi_head.mask_roi_extractor': None}


def test_scoring_masks_of_a_detector_without_masks_is_refused():
    """Swin-Transformer-Object-Detection's issue 169 and Co-DETR's issue 15."""
    check_masks(part_with('detection', split='val', evaluator=COCO))
    check_masks(part_with('detection', NO_MASKS, 'val', dict(COCO, metric='bbox')))
    with pytest.raises(UserError, match="^val_evaluator.metric has 'segm', but .*: set val_evaluator.metric=bbox"):
        check_masks(part_with('detection', NO_MASKS, 'val', COCO))


def test_samples_without_what_the_scores_need_are_refused():
    """mmdet's issue 11164 and mmrotate's issue 883."""
    part, shape = part_with('detection', split='test', evaluator=COCO), (4, 4)
    full = dict(img_id=1, ori_shape=shape, img_shape=shape, scale_factor=(1.0, 1.0))
    for lacking in (None, 'scale_factor', 'img_id', 'ori_shape'):
        metainfo = {key: value for key, value in full.items() if key != lacking}
        tried = dataclasses.replace(part)
        tried.sample = dict(inputs=torch.zeros(3, 4, 4), data_samples=DetDataSample(metainfo=metainfo))
        if lacking is None:
            check_meta_keys(tried)
        else:
            with pytest.raises(UserError, match=f'^test_dataloader.dataset: its samples lack {lacking}: name them in'):
                check_meta_keys(tried)


def test_writing_predictions_nowhere_is_refused(tmp_path):
    """mmseg's issue 2272."""
    metric = IoUMetric(format_only=True)
    metric.dataset_meta = dict(classes=('ground',))
    metric.process({}, [dict(pred_sem_seg=dict(data=torch.zeros(1, 2, 2)), img_path='a.jpg')])
    with pytest.raises(TypeError):
        metric.evaluate(1)  # after all predictions
    with pytest.raises(UserError, match=r'^test_evaluator\.format_only is True, .* set test_evaluator\.output_dir='):
        check_output_dir(part_with('segmentation', split='test', evaluator=dict(IOU, format_only=True)))
    written = dict(IOU, format_only=True, output_dir=str(tmp_path / 'out'))
    check_output_dir(part_with('segmentation', split='test', evaluator=written))


@pytest.mark.parametrize(
    ('head', 'metric', 'accepted'), [(255, 255, True), (0, 255, False), (255, 1, False), (0, 0, True), (254, 255, True)]
)
def test_heads_that_ignore_another_label_than_the_metric_are_refused(head, metric, accepted, tmp_path):
    """mmseg's issue 3732."""
    options = {f'model.{name}.ignore_index': head for name in ('decode_head', 'auxiliary_head')}
    folder = draw_masks(tmp_path / 'data', [(8, 8)])
    part = part_with('segmentation', options, 'val', dict(IOU, ignore_index=metric), folder)
    if accepted:
        check_ignored_labels(part)
    else:
        message = rf"^model\.decode_head\.ignore_index is {head}, and val_evaluator ignores {metric}: the class '\w+'"
        with pytest.raises(UserError, match=message):
            check_ignored_labels(part)
