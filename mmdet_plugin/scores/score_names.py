"""The names of the scores that mmdet's CocoMetric returns."""

from mmdet.evaluation import CocoMetric

from mmengine_plugin.checks.scores import score_names

from .coco_metric import FastCocoMetric

PRECISIONS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
RECALLS = ('AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000')


@score_names.register
def coco_score_names(metric: CocoMetric) -> set[str] | None:
    """List the scores of CocoMetric and FastCocoMetric. Those of other subclasses are not known.

    Args:
        metric: A metric that has its ``dataset_meta``.

    Returns:
        Names such as ``'coco/bbox_mAP'``; an empty set with ``format_only``; ``None`` for other subclasses.
    """
    if type(metric) not in (CocoMetric, FastCocoMetric):
        return None
    if metric.format_only:
        return set()
    names = set()
    for kind in metric.metrics:
        if kind == 'proposal_fast':
            names.update(f'AR@{number}' for number in metric.proposal_nums)
        elif isinstance(metric, FastCocoMetric):
            prefix = '' if kind == 'proposal' else f'{kind}_'
            names.update(f'{prefix}{item}' for item in metric.items(kind))
            if metric.of_classes and kind != 'proposal':
                names.update(metric.class_score_name(kind, name) for name in metric.dataset_meta['classes'])
        elif kind == 'proposal':
            names.update(RECALLS if metric.metric_items is None else metric.metric_items)
        else:
            items = PRECISIONS if metric.metric_items is None else metric.metric_items
            names.update(f'{kind}_{item}' for item in items)
            if metric.classwise:
                names.update(f'{name}_precision' for name in metric.dataset_meta['classes'])
    return {f'{metric.prefix}/{name}' for name in names}
