"""The names of the scores that mmseg's IoUMetric returns."""

from mmseg.evaluation import IoUMetric

from mmengine_plugin.checks.scores import score_names

from .iou_metric import CheckedIoUMetric

SCORES = dict(mIoU=('mIoU', 'mAcc'), mDice=('mDice', 'mAcc'), mFscore=('mFscore', 'mPrecision', 'mRecall'))


@score_names.register
def iou_score_names(metric: IoUMetric) -> set[str] | None:
    """List the scores of IoUMetric and CheckedIoUMetric. Those of other subclasses are not known.

    Args:
        metric: A metric of segmentation.

    Returns:
        Names such as ``'mIoU'``; an empty set with ``format_only``; ``None`` for other subclasses.
    """
    if type(metric) not in (IoUMetric, CheckedIoUMetric):
        return None
    if metric.format_only:
        return set()
    kinds = [metric.metrics] if isinstance(metric.metrics, str) else metric.metrics
    names = {'aAcc'}
    for kind in kinds:
        names.update(SCORES.get(kind, ()))  # mmseg refuses an unknown kind
    return {f'{metric.prefix}/{name}' if metric.prefix else name for name in names}
