"""Why a detector scores what it does: scores of each class, confusions, TIDE's errors, and the worst images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmengine.config import Config
from mmengine.fileio import get_local_path
from mmengine.registry import DATASETS

from backbones.errors import UserError
from mmengine_plugin.analysis.figures import draw_class_bars, draw_confusion_matrix, draw_error_bars
from mmengine_plugin.analysis.report import Report, listed, percent, quiet, score, table, top_confusions

from ..data.masks import has_mask
from ..scores.coco_evaluators import evaluator
from .matching import match_all, rank_images
from .result_samples import arrays, read_samples
from .tide import FOREGROUND, KINDS, error_costs, error_counts
from .worst_images import draw_worst_images

PARTS = dict(bbox='box', segm='mask')
LISTED = 10  # classes and confusions in a printed table
WORST = 50  # images in the JSON file


def analyze(cfg: Config, path: str, out_dir: str | Path, score_thr: float) -> Report:
    """Analyze the predictions of a detector, and draw figures.

    Args:
        cfg: Config of the detector; its scope must be the default scope.
        path: Predictions of ``tools/test.py --out``, or detections in COCO's results format.
        out_dir: Folder for the figures.
        score_thr: Detections with a lower score are left out of the confusion matrix and of the worst images. The AP
            and TIDE's errors use all detections.

    Returns:
        The findings.

    Raises:
        UserError: If the predictions cannot be used, or do not fit the test data of the config.
    """
    with quiet():
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        if not isinstance(dataset, CocoDataset):
            raise UserError(
                f"the test data of {cfg.filename} are a {type(dataset).__name__}: only data in COCO's format "
                '(CocoDataset) can be analyzed'
            )
        with get_local_path(dataset.ann_file, backend_args=dataset.backend_args) as path_of_truth:
            truth = dataset.COCOAPI(path_of_truth)
    classes, out_dir = dataset.metainfo['classes'], Path(out_dir)
    samples = read_samples(path, dataset, cfg.filename)
    if not any(len(sample['pred_instances']['labels']) for sample in samples):
        raise UserError(f'results {path} hold {len(samples)} images and no detection: there is nothing to analyze')
    report = Report(score(cfg, samples, dataset.metainfo), {})
    report.content = dict(config=cfg.filename, results=str(path), images=len(samples), scores=report.scores)
    rows = [dict(name=name) for name in classes]
    averages, errors = {}, {}
    for kind in kinds_of(samples, truth):
        part = PARTS[kind]
        matches, confusions = match_all(truth, samples, dataset, kind, score_thr)
        counts = error_counts(matches, len(classes))
        costs = error_costs(matches, len(classes))
        errors[part] = dict(costs=costs, counts=dict(zip(KINDS, counts.sum(1).tolist(), strict=True)))
        scores = class_scores(truth, samples, dataset, kind)
        for row, averaged, of_class in zip(rows, scores, counts.T.tolist(), strict=True):
            row |= {f'{part}_{name}': value for name, value in averaged.items()}
            row[f'{part}_errors'] = dict(zip(KINDS, of_class, strict=True))
        averages[f'{part} AP'] = [np.nan if value['AP'] is None else value['AP'] for value in scores]
        if kind == 'bbox':
            pairs = confusions
            for row, number in zip(rows, np.bincount(matches.truth, minlength=len(classes)).tolist(), strict=True):
                row['objects'] = number
    names = [*classes, 'background']
    matrix = np.zeros((len(names), len(names)), int)
    np.add.at(matrix, tuple(np.concatenate(pairs).T), 1)
    worst = rank_images(samples, pairs, dataset)
    report.content |= dict(
        classes=rows,
        errors=errors,
        confusion=dict(
            score_threshold=score_thr,
            iou=FOREGROUND,
            names=names,
            matrix=matrix.tolist(),
            largest=top_confusions(matrix, names, 50),
        ),
        worst_images=worst[:WORST],
    )
    report.tables = [_error_table(errors), _class_table(rows), _confusion_table(matrix, names, score_thr)]
    draw_error_bars({f'{p} errors': _bars(e['costs']) for p, e in errors.items()}, out_dir / 'errors.png')
    draw_class_bars(classes, averages, out_dir / 'classes.png')
    title = f'% of the objects of the true class\nscore ≥ {score_thr:g}, IoU ≥ {FOREGROUND:g}'
    draw_confusion_matrix(matrix, names, out_dir / 'confusion_matrix.png', title)
    report.files = ['errors.png', 'classes.png', 'confusion_matrix.png']
    if worst:
        draw_worst_images(worst, samples, truth, dataset, score_thr, out_dir / 'worst_images.png')
        report.files.append('worst_images.png')
    return report


def kinds_of(samples: list[dict], truth: COCO) -> list[str]:
    """``['bbox']``, or ``['bbox', 'segm']`` if predictions and annotations have masks."""
    predicted = all('masks' in sample['pred_instances'] for sample in samples)
    annotated = any(has_mask(mark.get('segmentation')) for mark in truth.anns.values())
    return ['bbox', 'segm'] if predicted and annotated else ['bbox']


def class_scores(truth: COCO, samples: list[dict], dataset: CocoDataset, kind: str) -> list[dict[str, float | None]]:
    """Compute COCO's AP, AP50, AP75 and AR of each class; ``None`` for a class without objects.

    The mean of the AP of all classes is the mAP of CocoMetric: it uses the 100 best detections of a class in an
    image, the others the best 1000. The AR is the mean over the IoU from 0.5 to 0.95.
    """
    entries = []
    for sample in samples:
        scores, labels, regions = arrays(sample, kind)
        key = 'bbox' if kind == 'bbox' else 'segmentation'
        entries += [
            dict(image_id=sample['img_id'], category_id=dataset.cat_ids[label], score=value, **{key: region})
            for value, label, region in zip(
                scores.tolist(), labels, regions.tolist() if kind == 'bbox' else regions, strict=True
            )
        ]
    with quiet():
        evaluation = evaluator(truth, truth.loadRes(entries), kind)
        evaluation.params.catIds, evaluation.params.maxDets = dataset.cat_ids, [100, 300, 1000]
        evaluation.params.imgIds = [sample['img_id'] for sample in samples]  # perhaps a part of the file
        evaluation.params.areaRng, evaluation.params.areaRngLbl = evaluation.params.areaRng[:1], ['all']
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()  # after it, the categories are in the order of dataset.cat_ids
    precision, recall = evaluation.eval['precision'], evaluation.eval['recall']
    result = []
    for label in range(len(dataset.cat_ids)):
        of_class = precision[:, :, label, 0]  # (IoU, recall, detections in an image)
        values = dict(
            AP=of_class[..., 0],
            AP50=of_class[0, :, -1],
            AP75=of_class[5, :, -1],
            AR=recall[:, label, 0, -1],
        )
        result.append({name: None if (v == -1).all() else float(v.mean()) for name, v in values.items()})
    return result


def _bars(costs: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in costs.items() if name != 'AP50'}


def _error_table(errors: dict[str, dict]) -> str:
    header = ['errors (TIDE)']
    for part in errors:
        header += [f'{part} dAP', 'count']
    rows = []
    for name in _bars(next(iter(errors.values()))['costs']):
        row = [name]
        for found in errors.values():
            row += [f'{found["costs"][name]:.2f}', found['counts'].get(name, '')]
        rows.append(row)
    return table(header, rows)


def _class_table(rows: list[dict]) -> str:
    keys = [key for key in rows[0] if key.endswith(('AP', 'AP50', 'AP75', 'AR'))]
    with_objects = sorted((row for row in rows if row['objects']), key=lambda row: row['box_AP'])
    lines = [[row['name'], row['objects'], *(percent(row[key]) for key in keys)] for row in with_objects[:LISTED]]
    lowest = 'class' if len(rows) <= LISTED else f'{LISTED} lowest of {len(rows)} classes'
    text = table([lowest, 'objects', *(key.replace('_', ' ') for key in keys)], lines)
    if without := [row['name'] for row in rows if not row['objects']]:
        text += f'\nno objects: {listed(without)}'
    return text


def _confusion_table(matrix: np.ndarray, names: list[str], score_thr: float) -> str:
    pairs = top_confusions(matrix, names, LISTED)
    lines = []
    for pair in pairs:
        of_truth = percent(None if pair['truth'] == names[-1] else pair['share'])  # background has no objects
        lines.append([f'{pair["truth"]} -> {pair["prediction"]}', pair['count'], of_truth])
    return table([f'confusions (score >= {score_thr:g})', 'objects', '% of the truth'], lines)
