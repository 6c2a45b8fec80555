"""Predictions for one's own images, by a detector or a segmentor.

    predictor = Predictor('configs/mask_rcnn_mambaout_tiny.py', 'epoch_12.pth')
    results = predictor(['photo.jpg', 'folder/'], out_dir='predictions')

does what ``tools/predict.py`` does.
"""

import glob
import os
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
from PIL import Image, ImageDraw, ImageFont, ImageOps
from pycocotools import mask as rle
from rich.progress import track
from torchvision.datasets.folder import IMG_EXTENSIONS, is_image_file

from backbones.errors import UserError
from backbones.weights import refuse_mismatch

from . import launch
from .files import make_folder, whole_file, write_json
from .guards import refuse_other_classes


class Predictor:
    """A detector or segmentor with its weights, for images of any size and kind.

    Args:
        config: A config file of mmdet or mmseg, whose test pipeline prepares the images.
        checkpoint: As in :mod:`mmengine_plugin.checkpoint`. The classes are those that it names, where it names none
            those of the config's test data.
        device: For example ``'cpu'`` or ``'cuda:1'``; by default a GPU where there is one.
        cfg_options: Settings to override, as ``--cfg-options``: ``{'model.test_cfg.rcnn.max_per_img': 300}``.

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
        cfg = launch.load_config(str(config), cfg_options or {})
        init_default_scope(cfg.default_scope)
        self.model = MODELS.build(cfg.model)
        content = CheckpointLoader.load_checkpoint(str(checkpoint), 'cpu')
        state = {k.removeprefix('module.'): v for k, v in content.get('state_dict', content).items()}
        refuse_mismatch(str(checkpoint), self.model.state_dict(), state)
        self.model.load_state_dict(state)
        self.model.to(device).eval()

        data = cfg.test_dataloader.dataset
        meta, source = content.get('meta', {}).get('dataset_meta'), checkpoint
        if not meta:
            meta, source = DATASETS.build(dict(data, lazy_init=True)).metainfo, config
        self.classes = meta['classes']
        refuse_other_classes(self.model, self.classes, str(source))
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
            from mmdet.visualization import DetLocalVisualizer  # segmentation runs without mmdet

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

        ``out_dir`` gets ``pictures/`` and ``predictions.json``, and a segmentor's ``labels/``: PNGs of class indices.
        Detections are in COCO's results format, and ``images.json`` says what their ids stand for, which count from 1.
        Segmented images are listed with their label map and each class's share of the pixels. All has the size of the
        image as it is viewed. Files are named as the images below the folder that these have in common.

        Args:
            images: Files, folders with all below them, and patterns as ``'day*/*.jpg'``.
            out_dir: Where to write; made if need be.
            batch_size: Images in a forward pass. Only neighbours of one input size share one: none is padded for
                another's sake, so that its result is its own.
            score_thr: Detections with a lower score are left out.

        Returns:
            The detections, or one dict for each segmented image, as written.

        Raises:
            UserError: As :func:`find_images`; and at the end, with all else written, if images could not be predicted.
        """
        if batch_size < 1:
            raise UserError(f'batch size {batch_size} must be at least 1')
        if not 0 <= score_thr <= 1:
            raise UserError(f'score threshold {score_thr} must be from 0 to 1')
        paths, out_dir = find_images(images, out_dir), Path(out_dir)
        names = _png_names(paths)
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
        finally:  # what is done is written, whatever ends the work
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
        """Path, image and prediction, in order; what fails is added to ``failures`` instead, with its cause."""

        def prepared() -> Iterator[tuple[str, Image.Image, dict]]:
            for path in track(paths, description='predicting'):
                try:
                    image = read_image(path)
                    pixels = np.ascontiguousarray(np.asarray(image)[..., ::-1])  # BGR, as OpenCV loads for training
                    data = self.pipeline(dict(img=pixels, img_path=path))
                except UserError as error:
                    failures.append(f'{path}: {error}')
                except cv2.error as error:  # so elongated that one side is resized to nothing
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
        self.visualizer.dpi = max(100, max(image.size) // 10)  # names that can be read on a large photo as well
        self.visualizer.fig_save.set_dpi(self.visualizer.dpi)
        self.visualizer.add_datasample('', np.asarray(image), sample, draw_gt=False, pred_score_thr=-1)
        entries = []
        for one in found:
            (x1, y1, x2, y2), label = one.bboxes[0].tolist(), int(one.labels)
            entry = dict(category_id=label + 1, category_name=self.classes[label], score=float(one.scores))
            entry['bbox'] = [x1, y1, x2 - x1, y2 - y1]
            if 'masks' in one:
                mask = rle.encode(np.asfortranarray(one.masks[0].numpy().astype(np.uint8)))
                entry['segmentation'] = mask | dict(counts=mask['counts'].decode())
            entries.append(entry)
        return Image.fromarray(self.visualizer.get_image()), entries

    def _segments(self, image: Image.Image, sample: BaseDataElement) -> tuple[Image.Image, Image.Image, dict]:
        """The picture of a segmentor's prediction with its legend, the label map, and the classes' shares of it."""
        labels = sample.pred_sem_seg.data[0].cpu().numpy()
        labels = labels.astype(np.uint8 if len(self.classes) <= 256 else np.uint16)
        shares = np.bincount(labels.ravel()) / labels.size
        present = [i for i in np.argsort(-shares) if shares[i]]
        colors = np.array(self.palette, np.uint8)
        picture = Image.blend(image, Image.fromarray(colors[labels]), 0.5)
        rows = [(self.palette[i], f'{self.classes[i]} {shares[i]:.1%}') for i in present]
        return (
            _with_legend(picture, rows),
            Image.fromarray(labels),
            {self.classes[i]: round(shares[i], 6) for i in present},
        )


def find_images(inputs: str | Path | Iterable[str | Path], out_dir: str | Path) -> list[str]:
    """The images that files, folders and patterns name, each once, with ``out_dir`` made and found fit to hold results.

    In folders these are the files that end as torchvision's ``IMG_EXTENSIONS``, in capitals as well, hidden ones not.

    Raises:
        UserError: If one of them is not there or holds no image, if ``out_dir`` cannot be written to, or if it holds
            images of ``inputs``.
    """
    inputs = [inputs] if isinstance(inputs, (str, Path)) else inputs
    found = {str(given): _files(str(given)) for given in inputs}
    for given, files in found.items():
        if not files:
            lacks = f'holds no image ({" ".join(IMG_EXTENSIONS)})' if os.path.isdir(given) else 'does not exist'
            raise UserError(f'{given} {lacks} (seen from {Path.cwd()})')
    paths = list({os.path.abspath(path): path for files in found.values() for path in files}.values())
    if not paths:
        raise UserError('no image is named')
    out_dir = Path(os.path.abspath(out_dir))
    inside = [path for path in paths if out_dir in Path(os.path.abspath(path)).parents]
    if inside:
        raise UserError(f'{inside[0]} lies in {out_dir}, where the results go: name another folder for these')
    make_folder(out_dir)
    return paths


def read_image(path: str) -> Image.Image:
    """An image as viewers show it, in 8-bit RGB; of several pages or frames the first.

    Raises:
        UserError: With the cause alone, if it cannot be read.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode.startswith('I;16'):  # PIL would cut off at 255; OpenCV, in training, takes the upper byte
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            elif image.mode in ('I', 'F'):
                raise ValueError('its pixels are 32-bit numbers of no known range: save it with 8 or 16 bits')
            return image.convert('RGB')
    except Exception as error:  # whatever a damaged file makes of its reader
        raise UserError(str(getattr(error, 'strerror', None) or error)) from error


def _files(given: str) -> list[str]:
    """The files behind one argument, sorted; empty if there are none."""
    if os.path.isdir(given):
        below = glob.iglob(os.path.join(glob.escape(given), '**'), recursive=True)
        return sorted(path for path in below if is_image_file(path) and os.path.isfile(path))
    if os.path.exists(given):
        return [given]
    return [path for match in sorted(glob.glob(given, recursive=True)) for path in _files(match)]


def _png_names(paths: list[str]) -> dict[str, str]:
    """A name for each image's results: its path below the folder that all have in common, ending in ``.png``."""
    root = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    full = [os.path.relpath(path, root) for path in paths]
    stems = [os.path.splitext(name)[0] for name in full]
    unique = stems if len(set(stems)) == len(stems) else full  # not where a.jpg and a.png would be one
    return {path: f'{name}.png' for path, name in zip(paths, unique, strict=True)}


def _with_legend(picture: Image.Image, rows: list[tuple[tuple[int, ...], str]]) -> Image.Image:
    """A picture with a white strip at its right, in which each row has a color and a text."""
    size = max(12, picture.height // 40)
    font, line = ImageFont.load_default(size), round(1.5 * size)
    width = 3 * size + round(max(font.getlength(text) for _, text in rows))
    sheet = Image.new('RGB', (picture.width + width, max(picture.height, line * len(rows) + size)), 'white')
    sheet.paste(picture)
    draw = ImageDraw.Draw(sheet)
    for i, (color, text) in enumerate(rows):
        left, top = picture.width + size // 2, size // 2 + i * line
        draw.rectangle((left, top, left + size, top + size), color, 'black')
        draw.text((left + 1.5 * size, top + size / 2), text, 'black', font, anchor='lm')
    return sheet


def _save(image: Image.Image, path: Path) -> None:
    with whole_file(path) as temporary:
        image.save(temporary, 'PNG')
