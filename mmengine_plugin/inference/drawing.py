"""Pictures of predictions and ground truth, for detection, segmentation and classification alike."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, VISUALIZERS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement, PixelData
from PIL import Image, ImageDraw, ImageOps
from torch.nn import functional as F
from torch.utils.data import Dataset

from backbones.errors import UserError

from ..atomic_files import atomic_file
from ..data.image_loaders import loader_of
from .classification import class_names
from .fonts import font_for, use_font_for
from .images import png_names, read_image, rgb_picture

SAMPLE_SIZE = (640, 440)  # (width, height) of a sample on the sheet of check_dataset.py, in pixels
CAPTION = 28  # height of the letters of a class name on this sheet, in pixels


class PicturesHook(Hook):
    """Draws every tested image with the Runner's visualizer: ground truth left, prediction right.

    mmdet's and mmseg's own hooks differ in how they name pictures and which images they skip. This one writes one file
    for each image, with the pixels that the test pipeline loads.

    Args:
        folder: Folder for the pictures. Each has the path of its image relative to the common folder of all images, and
            ends in ``.png``. If it is ``None``, the visualizer's backends get the pictures.
        show: Whether to open a window for each picture.
        wait_time: Seconds for which the window stays open.
    """

    def __init__(self, folder: str | None, show: bool = False, wait_time: float = 0.0) -> None:
        self.folder, self.show, self.wait_time = folder, show, wait_time

    def before_test(self, runner: Runner) -> None:
        """Find the loader and the names of the pictures."""
        dataset = runner.test_dataloader.dataset
        paths = [dataset.get_data_info(i)['img_path'] for i in range(len(dataset))]
        self.names = png_names(paths)
        self.loader = loader_of(dataset)
        use_font_for(runner.visualizer.dataset_meta['classes'])

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence) -> None:
        """Draw the images of one batch."""
        for sample in outputs:
            path = sample.img_path
            try:
                image = np.asarray(rgb_picture(read_image(path, self.loader), self.loader))
            except UserError as error:
                raise UserError(f'{path} cannot be drawn: {error}') from error
            picture = contextlib.nullcontext()
            if self.folder:
                picture = atomic_file(Path(self.folder, self.names[path]))
            with picture as out_file:
                runner.visualizer.add_datasample(
                    Path(path).name,
                    image,
                    data_sample=sample,
                    show=self.show,
                    wait_time=self.wait_time,
                    out_file=out_file and str(out_file),
                )


def draw_sheet(
    pictures: Sequence[Path], path: str | Path, columns: int = 2, rows: int = 4, size: tuple[int, int] = (760, 270)
) -> None:
    """Tile pictures into a sheet, row by row.

    Args:
        pictures: Image files, at least one. Those that do not fit on the sheet are left out.
        path: PNG file to write.
        columns: Largest number of tiles in a row.
        rows: Largest number of rows.
        size: (width, height) of a tile in pixels. Each picture is scaled to fit.
    """
    tiles = []
    for picture in pictures[: columns * rows]:
        image = cv2.imread(str(picture))
        factor = min((size[0] - 8) / image.shape[1], (size[1] - 8) / image.shape[0])
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        tile = np.full((size[1], size[0], 3), 255, np.uint8)
        tile[: image.shape[0], : image.shape[1]] = image
        tiles.append(tile)
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    lines = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    with atomic_file(path) as temporary:
        temporary.write_bytes(cv2.imencode('.png', np.vstack(lines))[1].tobytes())


def draw_samples(cfg: Config, path: str | Path, number: int = 12) -> None:
    """Draw images of the training set on a sheet, with their labels, after the training pipeline.

    Args:
        cfg: A config of mmdet, mmseg or timm_plugin. Its scope must be the default scope.
        path: PNG file to write.
        number: Number of images, spread over the set.
    """
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    draw = _class_drawer(dataset) if cfg.default_scope == 'mmengine' else _label_drawer(cfg, dataset)
    with tempfile.TemporaryDirectory() as folder:
        for index in np.linspace(0, len(dataset) - 1, min(number, len(dataset)), dtype=int):
            draw(dataset[index], f'{folder}/{index:09}.png')
        draw_sheet(sorted(Path(folder).iterdir()), path, columns=3, rows=-(-number // 3), size=SAMPLE_SIZE)


def _label_drawer(cfg: Config, dataset: Dataset) -> Callable[[dict, str], None]:
    """A function that draws a sample of a detector or a segmentor to a file."""
    loader = loader_of(dataset)
    use_font_for(dataset.metainfo['classes'])
    visualizer = VISUALIZERS.build(dict(cfg.visualizer, vis_backends=None))
    visualizer.dataset_meta = dataset.metainfo
    visualizer.alpha = 0.4  # objects must stay visible below their masks

    def draw(item: dict, file: str) -> None:
        image = rgb_picture(item['inputs'].permute(1, 2, 0).numpy(), loader)
        image, sample = _enlarged(image, item['data_samples'], SAMPLE_SIZE)
        visualizer.add_datasample('', np.asarray(image), sample, draw_pred=False, out_file=file)

    return draw


def _class_drawer(dataset: Dataset) -> Callable[[dict, str], None]:
    """A function that draws a sample of a classifier to a file, with the name of its class below it."""
    names = class_names(len(dataset.metainfo['classes']), dataset.metainfo, {}, '')  # synsets in words

    def draw(item: dict, file: str) -> None:
        image, name = Image.fromarray(item['inputs'].permute(1, 2, 0).numpy()), names[item['label']]
        image = ImageOps.contain(image, (SAMPLE_SIZE[0], SAMPLE_SIZE[1] - 2 * CAPTION))
        tile = Image.new('RGB', SAMPLE_SIZE, 'white')
        tile.paste(image)
        font = font_for([name], CAPTION)
        ImageDraw.Draw(tile).text((4, image.height + CAPTION), name, 'black', font, anchor='lm')
        tile.save(file)

    return draw


def _enlarged(
    image: Image.Image, sample: BaseDataElement, size: tuple[int, int]
) -> tuple[Image.Image, BaseDataElement]:
    """Enlarge a small image and its labels to a tile of a size (width, height), so that names are legible."""
    factor = max(1.0, min(size[0] / image.width, size[1] / image.height))
    image = image.resize((round(image.width * factor), round(image.height * factor)))
    if 'gt_instances' in sample:
        objects = sample.gt_instances
        objects.bboxes = getattr(objects.bboxes, 'tensor', objects.bboxes) * factor  # mmdet draws plain tensors
        if 'masks' in objects:
            objects.masks = objects.masks.resize((image.height, image.width))
    if 'gt_sem_seg' in sample:
        labels = sample.gt_sem_seg.data[None].float()
        labels = F.interpolate(labels, (image.height, image.width), mode='nearest')[0].long()
        sample.gt_sem_seg = PixelData(data=labels)
    return image, sample
