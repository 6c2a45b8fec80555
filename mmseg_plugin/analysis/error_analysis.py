"""Why a segmentor scores what it does: scores of each class, confused classes, and the worst images."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmseg.datasets import BaseSegDataset
from PIL import Image
from tqdm import tqdm

from backbones.errors import UserError
from mmengine_plugin.analysis.figures import draw_class_bars, draw_confusion_matrix, tile_size, with_caption
from mmengine_plugin.analysis.report import Report, listed, number_or_none, percent, quiet, score, table, top_confusions
from mmengine_plugin.analysis.results_file import read_results
from mmengine_plugin.data.image_loaders import loader_of
from mmengine_plugin.inference.drawing import draw_sheet
from mmengine_plugin.inference.images import read_image, rgb_picture
from mmengine_plugin.inference.overlays import with_legend

LISTED = 10  # classes and confusions in a printed table
WORST = 50  # images in the JSON file
DRAWN = 6  # images on the sheet
GAP = 4  # pixels between ground truth and prediction
NAMED = 8  # classes in the legend of an image


def analyze(cfg: Config, path: str, out_dir: str | Path, score_thr: float) -> Report:
    """Analyze the predictions of a segmentor, and draw figures.

    Args:
        cfg: Config of the segmentor; its scope must be the default scope.
        path: Predictions of ``tools/test.py --out``.
        out_dir: Folder for the figures.
        score_thr: Not used; a segmentor gives each pixel one class.

    Returns:
        The findings.

    Raises:
        UserError: If the predictions cannot be used, or do not fit the test data of the config.
    """
    out_dir = Path(out_dir)
    with quiet():
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    samples = read_samples(path, dataset, cfg.filename)
    classes, ignored = dataset.metainfo['classes'], dataset.ignore_index
    report = Report(score(cfg, samples, dataset.metainfo), {})
    matrix, counts = np.zeros((len(classes), len(classes)), np.int64), []
    for sample in tqdm(samples, 'counting pixels', mininterval=1):
        predicted, truth = label_maps(sample)
        part = confusion_matrix(truth, predicted, len(classes), ignored)
        matrix += part
        counts.append((np.diag(part).copy(), part.sum(1), part.sum(0)))  # a matrix for each image takes too much memory
    rows = class_scores(matrix, classes)
    worst = rank_images(samples, counts)
    report.content = dict(
        config=cfg.filename,
        results=str(path),
        images=len(samples),
        scores=report.scores,
        classes=rows,
        confusion=dict(names=list(classes), matrix=matrix.tolist(), largest=top_confusions(matrix, classes, 50)),
        worst_images=worst[:WORST],
    )
    report.tables = [_class_table(rows), _confusion_table(matrix, classes)]
    ious = [np.nan if row['IoU'] is None else row['IoU'] for row in rows]
    accuracies = [np.nan if row['accuracy'] is None else row['accuracy'] for row in rows]
    draw_class_bars(classes, {'IoU': ious, 'accuracy': accuracies}, out_dir / 'classes.png', 'no pixels')
    draw_confusion_matrix(matrix, classes, out_dir / 'confusion_matrix.png', '% of the pixels of the true class')
    draw_worst_images(worst, samples, dataset, out_dir / 'worst_images.png')
    report.files = ['classes.png', 'confusion_matrix.png', 'worst_images.png']
    return report


def read_samples(path: str | Path, dataset: BaseSegDataset, config: str) -> list[dict]:
    """Read the predictions of a segmentor, and compare them with the test data.

    Args:
        path: The ``.pkl`` file of ``tools/test.py --out``.
        dataset: The test data, loaded.
        config: Name of the config, for messages.

    Returns:
        One sample for each image, as mmseg's metrics take it: ``img_path``, and label maps of (1, H, W) in
        ``pred_sem_seg['data']`` and ``gt_sem_seg['data']``.

    Raises:
        UserError: If the file cannot be used, or if it is for other images, other classes or a detector.
    """
    samples = read_results(path)
    if Path(path).suffix == '.json':
        raise UserError(
            f'results {path}: a segmentor has no results in JSON; give the .pkl file of tools/test.py --out'
        )
    again = f'name the config and --cfg-options that tools/test.py ran with, rather than {config}'
    if 'pred_instances' in samples[0]:
        raise UserError(f'results {path} are those of a detector, and {config} is a segmentor: name its own config')
    paths = {Path(dataset.get_data_info(index)['img_path']).name for index in range(len(dataset))}
    if len(samples) != len(dataset):
        raise UserError(
            f'results {path} are those of {len(samples)} images, and the test data of {config} have {len(dataset)}: '
            f'{again}'
        )
    for number, sample in enumerate(samples):
        if 'pred_sem_seg' not in sample or 'img_path' not in sample:
            raise UserError(
                f'results {path}: entry {number} has no img_path and pred_sem_seg: give the .pkl file that '
                'tools/test.py --out writes for a segmentor'
            )
        if 'gt_sem_seg' not in sample:
            raise UserError(
                f"results {path}: image {sample['img_path']} has no ground truth: add dict(type='LoadAnnotations') "
                f'to the test pipeline of {config}, and run tools/test.py again'
            )
        if Path(sample['img_path']).name not in paths:
            raise UserError(
                f'results {path} have the image {sample["img_path"]}, which is not in the test data: {again}'
            )
        label, classes = int(sample['pred_sem_seg']['data'].max()), len(dataset.metainfo['classes'])
        if label >= classes:
            raise UserError(
                f'results {path}: image {sample["img_path"]} has label {label}, and the {classes} classes of {config} '
                f'end at {classes - 1}: {again}'
            )
    return samples


def label_maps(sample: dict) -> tuple[np.ndarray, np.ndarray]:
    """The predicted and the true label map (H, W) of a sample."""
    predicted, truth = (np.asarray(sample[key]['data']).squeeze(0) for key in ('pred_sem_seg', 'gt_sem_seg'))
    return predicted, truth


def confusion_matrix(truth: np.ndarray, predicted: np.ndarray, classes: int, ignored: int) -> np.ndarray:
    """Count the pixels (C, C) by true and predicted class; pixels with the label ``ignored`` are left out."""
    kept = (truth != ignored) & (truth < classes)
    pairs = truth[kept].astype(np.int64) * classes + predicted[kept]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def class_scores(matrix: np.ndarray, classes: tuple[str, ...]) -> list[dict]:
    """Compute the scores of each class.

    Args:
        matrix: (C, C), pixels by true and predicted class.
        classes: C names.

    Returns:
        For each class ``name``, ``pixel_share`` (its share of the truth), ``IoU``, ``accuracy`` (the share of its
        pixels that are found, also called recall) and ``precision`` (the share of the pixels predicted as this class
        that are right). A score is ``None`` where it would be 0 / 0; mmseg leaves it out of the mean.
    """
    right, truth, predicted = np.diag(matrix).astype(float), matrix.sum(1), matrix.sum(0)
    with np.errstate(invalid='ignore'):
        scores = dict(
            pixel_share=truth / truth.sum(),
            IoU=right / (truth + predicted - right),
            accuracy=right / truth,
            precision=right / predicted,
        )
    return [
        dict(name=name) | {key: number_or_none(values[index]) for key, values in scores.items()}
        for index, name in enumerate(classes)
    ]


def rank_images(samples: list[dict], counts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> list[dict]:
    """Rank the images by their mean IoU over the classes that they hold or that are predicted, the lowest first.

    Args:
        samples: The samples.
        counts: For each sample, the pixels of each class (C,) that are predicted right, in the truth and predicted.

    Returns:
        For each image with labelled pixels ``index``, ``file``, ``IoU`` and ``accuracy``.
    """
    ranked = []
    for index, (sample, (right, truth, predicted)) in enumerate(zip(samples, counts, strict=True)):
        union = truth + predicted - right
        if union.any():
            iou = float((right[union > 0] / union[union > 0]).mean())
            ranked.append(
                dict(index=index, file=sample['img_path'], IoU=iou, accuracy=float(right.sum() / truth.sum()))
            )
    return sorted(ranked, key=lambda entry: entry['IoU'])


def draw_worst_images(worst: list[dict], samples: list[dict], dataset: BaseSegDataset, path: str | Path) -> None:
    """Draw the first images of a ranking on a sheet: ground truth left, prediction right. Ignored pixels are black."""
    classes = dataset.metainfo['classes']
    palette = dataset.metainfo.get('palette') or ()
    if len(palette) < len(classes):
        palette = np.random.RandomState(42).randint(0, 256, (len(classes), 3)).tolist()
    loader = loader_of(dataset)
    colors = np.array([*palette[: len(classes)], (0, 0, 0)], np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        pictures = []
        for place, entry in enumerate(worst[:DRAWN]):
            maps = [np.minimum(part, len(classes)) for part in label_maps(samples[entry['index']])]
            height, width = maps[0].shape
            image = rgb_picture(read_image(entry['file'], loader), loader).resize((width, height))
            sheet = Image.new('RGB', (2 * width + GAP, height), 'white')
            for number, labels in enumerate(reversed(maps)):
                sheet.paste(Image.blend(image, Image.fromarray(colors[labels]), 0.6), (number * (width + GAP), 0))
            numbers = np.bincount(np.concatenate(maps, axis=None), minlength=len(classes))[: len(classes)]
            most = [label for label in np.argsort(-numbers, kind='stable')[:NAMED] if numbers[label]]
            sheet = with_legend(sheet, [(tuple(colors[label].tolist()), classes[label]) for label in most])
            pictures.append(Path(folder, f'{place}.png'))
            text = f'{Path(entry["file"]).name}: mean IoU {percent(entry["IoU"])}, {percent(entry["accuracy"])} % right'
            with_caption(sheet, text).save(pictures[-1])
        draw_sheet(pictures, path, rows=-(-DRAWN // 2), size=tile_size(pictures))


def _class_table(rows: list[dict]) -> str:
    keys = ('pixel_share', 'IoU', 'accuracy', 'precision')
    scored = sorted((row for row in rows if row['IoU'] is not None), key=lambda row: row['IoU'])
    title = 'class' if len(rows) <= LISTED else f'{LISTED} lowest of {len(rows)} classes'
    lines = [[row['name'], *(percent(row[key]) for key in keys)] for row in scored[:LISTED]]
    text = table([title, '% of pixels', 'IoU', 'accuracy', 'precision'], lines)
    if without := [row['name'] for row in rows if row['IoU'] is None]:
        text += f'\nno pixels, and none predicted: {listed(without)}'
    return text


def _confusion_table(matrix: np.ndarray, classes: tuple[str, ...]) -> str:
    pairs = top_confusions(matrix, classes, LISTED)
    lines = [[f'{p["truth"]} -> {p["prediction"]}', p['count'], percent(p['share'])] for p in pairs]
    return table(['confusions', 'pixels', '% of the truth'], lines)
