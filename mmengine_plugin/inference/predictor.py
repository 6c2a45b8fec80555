"""Predictions for one's own images, by a detector or a segmentor.

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
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import CheckpointLoader
from mmengine.structures import BaseDataElement
from PIL import Image
from pycocotools import mask as rle
from rich.progress import track

from backbones.errors import UserError
from backbones.weights import refuse_mismatch

from ..atomic_files import atomic_file, write_json
from ..cli.configs import load_config
from ..data.classes import check_num_classes
from ..engine.strict_load_hook import names_in_model, without_module
from .drawing import draw_instances, draw_segments
from .images import find_images, png_names, read_image


class Predictor:
    """A detector or segmentor with its weights, for images of any size and kind.

    Args:
        config: A config file of mmdet or mmseg; its test pipeline prepares the images.
        checkpoint: A local file, a URL, or ``hf-hub:<repository>``. If it names classes, the results have these;
            otherwise, those of the config's test data.
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
        content = CheckpointLoader.load_checkpoint(str(checkpoint), 'cpu')
        state = content.get('state_dict', content)
        refuse_mismatch(str(checkpoint), *names_in_model(self.model, state))
        self.model.load_state_dict(without_module(state), strict=False)
        self.model.to(device).eval()

        data = cfg.test_dataloader.dataset
        meta, source = content.get('meta', {}).get('dataset_meta'), checkpoint
        if not meta:
            meta, source = DATASETS.build(dict(data, lazy_init=True)).metainfo, config
        self.classes = meta['classes']
        check_num_classes(self.model, self.classes, str(source))
        palette = meta.get('palette') or ()
        if len(palette) < len(self.classes):
            palette = np.random.RandomState(42).randint(0, 256, (len(self.classes), 3)).tolist()
        self.palette = [tuple(color) for color in palette]

        steps = [dict(step) for step in data.pipeline if 'Annotations' not in str(step.type)]
        for step in steps:
            if 'LoadImageFromFile' in str(step['type']):
                step['type'] = f'{cfg.default_scope}.LoadImageFromNDArray'
        self.pipeline = Compose(steps)
        self.visualizer = None
        if cfg.default_scope == 'mmdet':
            from mmdet.visualization import DetLocalVisualizer  # here, since segmentation runs without mmdet

            self.visualizer = DetLocalVisualizer()
            self.visualizer.dataset_meta = dict(classes=self.classes, palette=self.palette)

    def __call__(
        self,
        images: str | Path | Iterable[str | Path],
        out_dir: str | Path,
        batch_size: int = 1,
        score_thr: float = 0.3,
    ) -> list[dict]:
        """Predict, draw and write.

        A detector writes ``predictions.json`` in COCO's results format, ``images.json``, which explains the ids, and
        ``pictures/``. The ids of images and categories count from 1. A segmentor writes ``predictions.json`` with each
        image's label map and the classes' shares of its pixels, ``labels/`` with PNGs of class indices, and
        ``pictures/``. Boxes, masks, label maps and pictures have the size of the image as viewers show it. Files have
        the image's path, relative to the common folder of all images.

        Args:
            images: Files, folders with all files below them, and patterns such as ``'day*/*.jpg'``.
            out_dir: Folder for the results; it is made if it does not exist.
            batch_size: Number of images in a forward pass. Only successive images of one input size share a batch, so
                that no image is padded and its result does not depend on others.
            score_thr: Detections with a lower score are left out.

        Returns:
            The detections of all images, or one dict for each segmented image, as in ``predictions.json``.

        Raises:
            UserError: If an image is not found, if ``out_dir`` cannot be written to, or if images could not be
                predicted. In the last case the other images are done and written.
        """
        if batch_size < 1:
            raise UserError(f'batch size {batch_size} must be at least 1')
        if not 0 <= score_thr <= 1:
            raise UserError(f'score threshold {score_thr} must be from 0 to 1')
        paths, out_dir = find_images(images, out_dir), Path(out_dir)
        names = png_names(paths)
        listed, results, failures = [], [], []
        try:
            for path, image, sample in self._samples(paths, batch_size, failures):
                if self.visualizer:
                    listed.append(dict(id=len(listed) + 1, file_name=path, width=image.width, height=image.height))
                    picture, found = self._instances(image, sample, score_thr)
                    results += [dict(image_id=len(listed), file_name=path) | detection for detection in found]
                else:
                    picture, labels, shares = self._segments(image, sample)
                    results.append(dict(file_name=path, label_map=f'labels/{names[path]}', shares=shares))
                    _save(labels, out_dir / 'labels' / names[path])
                _save(picture, out_dir / 'pictures' / names[path])
        finally:  # also if an error or Ctrl-C ends the work
            if self.visualizer:
                categories = [dict(id=i, name=name) for i, name in enumerate(self.classes, 1)]
                write_json(out_dir / 'images.json', dict(images=listed, categories=categories, annotations=[]))
            written = results if self.visualizer else dict(classes=self.classes, images=results)
            write_json(out_dir / 'predictions.json', written)
        if failures:
            raise UserError(
                f'{len(failures)} of {len(paths)} images could not be predicted, the others are in {out_dir}:\n  '
                + '\n  '.join(failures)
            )
        return results

    def _samples(
        self, paths: list[str], batch_size: int, failures: list[str]
    ) -> Iterator[tuple[str, Image.Image, BaseDataElement]]:
        """Yield path, image and prediction in order; add images that fail to ``failures``, each with its reason."""

        def prepared() -> Iterator[tuple[str, Image.Image, dict]]:
            for path in track(paths, description='predicting'):
                try:
                    image = read_image(path)
                    pixels = np.ascontiguousarray(np.asarray(image)[..., ::-1])  # BGR, as OpenCV loads for training
                    data = self.pipeline(dict(img=pixels, img_path=path))
                except UserError as error:
                    failures.append(f'{path}: {error}')
                except cv2.error as error:  # a very elongated image, one side of which is resized to 0
                    failures.append(f'{path}: {image.width} x {image.height} pixels cannot be resized [{error.err}]')
                else:
                    yield path, image, data

        for _, same_size in groupby(prepared(), key=lambda item: item[2]['inputs'].shape):
            while batch := list(islice(same_size, batch_size)):
                files, images, data = zip(*batch, strict=True)
                with torch.no_grad():
                    samples = self.model.test_step(pseudo_collate(data))
                yield from zip(files, images, samples, strict=True)

    def _instances(
        self, image: Image.Image, sample: BaseDataElement, score_thr: float
    ) -> tuple[Image.Image, list[dict]]:
        """The picture of a detector's prediction, and the prediction in COCO's results format."""
        found = sample.pred_instances.cpu()
        sample.pred_instances = found = found[found.scores >= score_thr]
        picture = draw_instances(image, sample, self.visualizer)
        entries = []
        for one in found:
            (x1, y1, x2, y2), label = one.bboxes[0].tolist(), int(one.labels)
            entry = dict(category_id=label + 1, category_name=self.classes[label], score=float(one.scores))
            entry['bbox'] = [x1, y1, x2 - x1, y2 - y1]
            if 'masks' in one:
                mask = rle.encode(np.asfortranarray(one.masks[0].numpy().astype(np.uint8)))
                entry['segmentation'] = mask | dict(counts=mask['counts'].decode())
            entries.append(entry)
        return picture, entries

    def _segments(self, image: Image.Image, sample: BaseDataElement) -> tuple[Image.Image, Image.Image, dict]:
        """The picture of a segmentor's prediction, the label map, and each class's share of its pixels."""
        labels = sample.pred_sem_seg.data[0].cpu().numpy()
        labels = labels.astype(np.uint8 if len(self.classes) <= 256 else np.uint16)
        shares = np.bincount(labels.ravel()) / labels.size
        present = [label for label in np.argsort(-shares) if shares[label]]
        legend = [(self.palette[label], f'{self.classes[label]} {shares[label]:.1%}') for label in present]
        picture = draw_segments(image, labels, self.palette, legend)
        return picture, Image.fromarray(labels), {self.classes[label]: round(shares[label], 6) for label in present}


def _save(image: Image.Image, path: Path) -> None:
    with atomic_file(path) as temporary:
        image.save(temporary, 'PNG')
