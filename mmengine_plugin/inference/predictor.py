"""Predictions for one's own images, by a detector, a segmentor or a classifier.

    predictor = Predictor('configs/mask_rcnn_mambaout_tiny.py', 'epoch_12.pth')
    results = predictor(['photo.jpg', 'folder/'], out_dir='predictions')

does what ``tools/predict.py`` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby, islice
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.device import get_device
from mmengine.registry import DATASETS, MODELS, init_default_scope
from PIL import Image
from rich.progress import Progress

from backbones.errors import UserError

from ..atomic_files import atomic_file, write_json
from ..checks.classes import check_num_classes
from ..checks.image_channels import check_image_channels
from ..cli.configs import load_config
from .classification import ClassifierPipeline, class_names
from .collecting import ClassScores, Detections, LabelMap
from .images import find_images, png_names, read_image, rgb_picture
from .pipeline import Input, InputPipeline, Result
from .reporting import report_classes, report_detections, report_labels
from .tiles import check_side, tiles_of
from .weights import load_weights

LONGEST_PICTURE = 4096  # pixels; pictures of larger images are scaled down


class Predictor:
    """A detector, segmentor or classifier with its weights, for images of any size and kind.

    Args:
        config: A config file of mmdet, mmseg or timm_plugin; its test pipeline or transform prepares the images.
        checkpoint: A local file, a URL, or ``hf-hub:<repository>``. If it names classes, the results have these;
            otherwise, those of the config's test data, or of ImageNet-1k for a classifier of 1000 classes.
        device: For example ``'cpu'`` or ``'cuda:1'``. The default is a GPU if there is one.
        cfg_options: Settings to override, as by ``--cfg-options``: ``{'model.test_cfg.rcnn.max_per_img': 300}``.

    Raises:
        UserError: If config, checkpoint or device cannot be used, or do not fit one another.
    """

    def __init__(
        self,
        config: str | Path,
        checkpoint: str | Path,
        device: str | None = None,
        cfg_options: Mapping[str, object] | None = None,
    ) -> None:
        device = device or get_device()
        try:
            torch.empty(0, device=device)
        except (AssertionError, RuntimeError) as error:
            raise UserError(f'device {device} cannot be used: {str(error).splitlines()[0]}') from error
        cfg = load_config(str(config), cfg_options or {})
        init_default_scope(cfg.default_scope)
        self.model = MODELS.build(cfg.model)
        content = load_weights(self.model, str(checkpoint))
        self.model.to(device).eval()

        data, meta = cfg.test_dataloader.dataset, content.get('meta', {}).get('dataset_meta')
        self.is_detector, self.is_classifier = cfg.default_scope == 'mmdet', 'transform' in data
        if self.is_classifier:
            meta = dict(classes=class_names(self.model.num_classes, meta, data, str(checkpoint)))
            self.pipeline = ClassifierPipeline(DATASETS.build(dict(data, lazy_init=True)).transform)
        else:
            source = checkpoint if meta else config
            meta = meta or DATASETS.build(dict(data, lazy_init=True)).metainfo
            check_num_classes(self.model, meta['classes'], str(source))
            self.pipeline = InputPipeline(data.pipeline, str(config))
        self.classes, palette = meta['classes'], meta.get('palette') or ()
        if len(palette) < len(self.classes):
            palette = np.random.RandomState(42).randint(0, 256, (len(self.classes), 3)).tolist()
        self.palette = [tuple(color) for color in palette]

    def __call__(
        self,
        images: str | Path | Iterable[str | Path],
        out_dir: str | Path,
        batch_size: int = 1,
        score_thr: float = 0.3,
        tile: int | None = None,
    ) -> list[dict]:
        """Predict, draw and write.

        A detector writes ``predictions.json`` in COCO's results format, ``images.json``, which explains the ids, and
        ``pictures/``. The ids of images and categories count from 1. A segmentor writes ``predictions.json`` with each
        image's label map and the classes' shares of its pixels, ``labels/`` with PNGs of class indices, and
        ``pictures/``. A classifier writes ``predictions.json`` with the five best classes of each image, and
        ``pictures/``. Files have the image's path, relative to the common folder of all images.

        Images are loaded by the LoadImageFromFile of the config's test pipeline, and for a classifier as TimmDataset
        loads them. Boxes, masks, label maps and pictures have the size and orientation of what it returns. Pictures are
        scaled down to at most 4096 pixels.

        Args:
            images: Files, folders with all files below them, and patterns such as ``'day*/*.jpg'``.
            out_dir: Folder for the results; it is made if it does not exist.
            batch_size: Number of images in a forward pass. Only successive images of one input size share a batch, so
                that no image is padded and its result does not depend on others.
            score_thr: Detections with a lower score are left out. Segmentors and classifiers have no use for it.
            tile: Height and width, in pixels of the image, of the overlapping tiles in which an image is predicted. The
                test pipeline gets each tile as if it were an image. 0 predicts all images whole. By default, images of
                more than 2**26 pixels are predicted in tiles of 1024 pixels. A classifier has no tiles.

        Returns:
            The detections of all images, or one dict for each segmented or classified image, as in
            ``predictions.json``.

        Raises:
            UserError: If an image is not found, if ``out_dir`` cannot be written to, if a classifier is to use tiles,
                or if images could not be predicted. In the last case the other images are done and written.
        """
        if batch_size < 1:
            raise UserError(f'batch size {batch_size} must be at least 1')
        if not 0 <= score_thr <= 1:
            raise UserError(f'score threshold {score_thr} must be from 0 to 1')
        check_side(tile)
        if self.is_classifier:
            if tile:
                raise UserError(f'tile {tile}: a classifier has one answer for the whole image: leave out the tile')
            tile = 0  # however large an image is
        paths, out_dir = find_images(images, out_dir), Path(out_dir)
        names = png_names(paths)
        listed, results, failures = [], [], []
        try:
            for path, pixels, result in self._results(paths, batch_size, score_thr, tile, failures):
                picture = rgb_picture(pixels, self.pipeline.loader, LONGEST_PICTURE)
                height, width = pixels.shape[:2]
                if isinstance(result, Detections):
                    listed.append(dict(id=len(listed) + 1, file_name=path, width=width, height=height))
                    picture, found = report_detections(picture, result, self.classes, self.palette)
                    results += [dict(image_id=len(listed), file_name=path) | detection for detection in found]
                elif isinstance(result, ClassScores):
                    picture, top = report_classes(picture, result, self.classes, self.palette)
                    results.append(dict(file_name=path, top=top))
                else:
                    picture, shares = report_labels(picture, result, self.classes, self.palette)
                    results.append(dict(file_name=path, label_map=f'labels/{names[path]}', shares=shares))
                    _save(Image.fromarray(result.labels), out_dir / 'labels' / names[path])
                _save(picture, out_dir / 'pictures' / names[path])
        finally:  # also if an error or Ctrl-C ends the work
            if self.is_detector:
                categories = [dict(id=i, name=name) for i, name in enumerate(self.classes, 1)]
                write_json(out_dir / 'images.json', dict(images=listed, categories=categories, annotations=[]))
            written = results if self.is_detector else dict(classes=self.classes, images=results)
            write_json(out_dir / 'predictions.json', written)
        if failures:
            raise UserError(
                f'{len(failures)} of {len(paths)} images could not be predicted, the others are in {out_dir}:\n  '
                + '\n  '.join(failures)
            )
        return results

    def _results(
        self, paths: list[str], batch_size: int, score_thr: float, side: int | None, failures: list[str]
    ) -> Iterator[tuple[str, np.ndarray, Result]]:
        """Yield path, pixels and prediction in order; add images that fail to ``failures``, each with its reason."""
        with Progress() as progress:
            inputs = self._inputs(paths, score_thr, side, failures, progress)
            for _, same_size in groupby(inputs, key=lambda item: item.data['inputs'].shape):
                while batch := list(islice(same_size, batch_size)):
                    with torch.no_grad():
                        samples = self.model.test_step(self.pipeline.collate([item.data for item in batch]))
                    for item, sample in zip(batch, samples, strict=True):
                        item.result.add(item.tile, sample)
                        if item.is_last:
                            yield item.path, item.pixels, item.result

    def _inputs(
        self, paths: list[str], score_thr: float, side: int | None, failures: list[str], progress: Progress
    ) -> Iterator[Input]:
        """Yield the tiles of all images as inputs of the model."""
        for path in progress.track(paths, description='predicting'):
            try:
                pixels = read_image(path, self.pipeline.loader)
                check_image_channels(self.model, pixels)
                height, width = pixels.shape[:2]
                tiles = tiles_of(height, width, side)
                result = self._empty_result(height, width, score_thr)
                if len(tiles) > 1:
                    left, top, right, bottom = tiles[0].box
                    progress.console.print(
                        f'{path}: {width} x {height} pixels are predicted in {len(tiles)} tiles of {right - left} x '
                        f'{bottom - top} pixels; --tile 0 predicts the image whole',
                        markup=False,
                        highlight=False,
                        soft_wrap=True,
                    )
                task = progress.add_task('tiles', total=len(tiles), visible=len(tiles) > 1)
                for tile in tiles:
                    yield Input(
                        path, pixels, tile, tile is tiles[-1], result, self.pipeline.data_of(path, pixels, tile)
                    )
                    progress.advance(task)
                progress.remove_task(task)
            except UserError as error:
                failures.append(f'{path}: {error}')
            except cv2.error as error:  # a very elongated image, one side of which is resized to 0
                failures.append(f'{path}: {width} x {height} pixels cannot be resized [{error.err}]')

    def _empty_result(self, height: int, width: int, score_thr: float) -> Result:
        """What collects the prediction of an image of a size."""
        if self.is_classifier:
            return ClassScores()
        if self.is_detector:
            return Detections(height, width, score_thr)
        return LabelMap(height, width, len(self.classes))


def _save(image: Image.Image, path: Path) -> None:
    with atomic_file(path) as temporary:
        image.save(temporary, 'PNG')
