"""Whether the metrics get from the model and from the samples what they count with."""

from __future__ import annotations

from backbones.errors import UserError

from ..data.checked_samples import views
from .class_lists import class_tuple
from .run_part import RunPart


def check_label_map(part: RunPart) -> None:
    """Check that a sample has the label map that mIoU is counted with.

    Raises:
        UserError: If it has none.
    """
    counting = [metric for _, metric in part.metrics_of('IoUMetric') if not metric.format_only]
    if counting and part.sample is not None and 'gt_sem_seg' not in next(views(part.sample))['data_samples']:
        raise UserError(
            f'{part.split}_dataloader.dataset: IoUMetric needs label maps, and the pipeline loads none: add '
            "dict(type='LoadAnnotations') after Resize, and seg_map_path to data_prefix. To write predictions without "
            f"scores, set {part.split}_evaluator.format_only=True and {part.split}_evaluator.output_dir='predictions'"
        )


def check_masks(part: RunPart) -> None:
    """Check that a detector predicts the masks that a metric scores.

    Raises:
        UserError: If no part of the model is for masks.
    """
    for key, metric in part.metrics_of('CocoMetric'):
        if 'segm' in metric.metrics and not any('mask' in name for name, _ in part.model.named_modules()):
            raise UserError(f"{key}.metric has 'segm', but the model predicts no masks: set {key}.metric=bbox")


def check_meta_keys(part: RunPart) -> None:
    """Check that the samples of a detector carry what scoring with COCO's metric reads.

    Raises:
        UserError: If they lack one of the keys.
    """
    if part.sample is None or not part.metrics_of('CocoMetric'):
        return
    needed = ['img_id', 'ori_shape']
    if not hasattr(part.model, 'panoptic_fusion_head'):  # which takes masks back to the size of the image by ori_shape
        needed.append('scale_factor')
    lacking = [key for key in needed if key not in next(views(part.sample))['data_samples']]
    if lacking:
        raise UserError(
            f'{part.split}_dataloader.dataset: its samples lack {", ".join(lacking)}: name them in meta_keys of '
            'PackDetInputs, and keep Resize in the pipeline, which sets scale_factor'
        )


def check_output_dir(part: RunPart) -> None:
    """Check that a metric that only writes predictions knows where.

    Raises:
        UserError: If ``output_dir`` is not set.
    """
    for key, metric in part.metrics_of('IoUMetric'):
        if metric.format_only and metric.output_dir is None:
            raise UserError(f'{key}.format_only is True, and nothing says where to write: set {key}.output_dir=FOLDER')


def check_ignored_labels(part: RunPart) -> None:
    """Check that the heads of a segmentor ignore the label that the metric ignores.

    Raises:
        UserError: If a class is left out of the training and scored, or the other way round.
    """
    classes = class_tuple(getattr(part.dataset, 'metainfo', None)) or ()
    for key, metric in part.metrics_of('IoUMetric'):
        for name, head in part.model.named_modules():
            if not hasattr(head, 'loss_decode') or not isinstance(getattr(head, 'ignore_index', None), int):
                continue
            ignored = {head.ignore_index, metric.ignore_index}
            named = [label for label in ignored if 0 <= label < len(classes)]
            if len(ignored) > 1 and named and not metric.format_only:
                raise UserError(
                    f'model.{name}.ignore_index is {head.ignore_index}, and {key} ignores {metric.ignore_index}: the '
                    f'class {classes[named[0]]!r} would be left out of one of the two, the training or the scores. Set '
                    f'model.{name}.ignore_index={metric.ignore_index}, or {key}.ignore_index={head.ignore_index}'
                )
