"""Pictures of predictions and ground truth, for detection and segmentation alike."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.fileio import get
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, VISUALIZERS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from mmengine.visualization import Visualizer
from PIL import Image, ImageDraw, ImageFont

from ..atomic_files import atomic_file


class PicturesHook(Hook):
    """Draws every tested image with the Runner's visualizer: ground truth left, prediction right.

    mmdet's and mmseg's own hooks differ in how they name pictures and which images they skip. This one writes one file
    for each image.

    Args:
        folder: Folder for ``<name of the image>.png``. If it is ``None``, the visualizer's backends get the pictures.
        show: Whether to open a window for each picture.
        wait_time: Seconds for which the window stays open.
    """

    def __init__(self, folder: str | None, show: bool = False, wait_time: float = 0.0) -> None:
        self.folder, self.show, self.wait_time = folder, show, wait_time

    def after_test_iter(self, runner: Runner, batch_idx: int, data_batch: dict, outputs: Sequence) -> None:
        """Draw the images of one batch."""
        for sample in outputs:
            path = Path(sample.img_path)
            picture = atomic_file(Path(self.folder, path.stem + '.png')) if self.folder else contextlib.nullcontext()
            with picture as out_file:
                runner.visualizer.add_datasample(
                    path.name,
                    mmcv.imfrombytes(get(sample.img_path), channel_order='rgb'),
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
        cfg: A config of mmdet or mmseg. Its scope must be the default scope.
        path: PNG file to write.
        number: Number of images, spread over the set.
    """
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    visualizer = VISUALIZERS.build(dict(cfg.visualizer, vis_backends=None))
    visualizer.dataset_meta = dataset.metainfo
    visualizer.alpha = 0.4  # objects must stay visible below their masks
    with tempfile.TemporaryDirectory() as folder:
        for index in np.linspace(0, len(dataset) - 1, min(number, len(dataset)), dtype=int):
            item = dataset[index]
            sample, image = item['data_samples'], item['inputs'].permute(1, 2, 0).numpy()[..., ::-1]  # BGR to RGB
            if 'gt_instances' in sample:  # mmdet's visualizer draws plain tensors
                sample.gt_instances.bboxes = getattr(sample.gt_instances.bboxes, 'tensor', sample.gt_instances.bboxes)
            picture = f'{folder}/{index:09}.png'
            visualizer.add_datasample('', np.ascontiguousarray(image), sample, draw_pred=False, out_file=picture)
        draw_sheet(sorted(Path(folder).iterdir()), path, columns=3, rows=-(-number // 3), size=(640, 440))


def draw_instances(image: Image.Image, sample: BaseDataElement, visualizer: Visualizer) -> Image.Image:
    """Draw the boxes, masks, classes and scores of a detector's prediction with mmdet's visualizer."""
    visualizer.dpi = max(100, max(image.size) // 10)  # names must be legible on large photos, too
    visualizer.fig_save.set_dpi(visualizer.dpi)
    visualizer.add_datasample('', np.asarray(image), sample, draw_gt=False, pred_score_thr=-1)
    return Image.fromarray(visualizer.get_image())


def draw_segments(
    image: Image.Image, labels: np.ndarray, palette: Sequence[tuple[int, ...]], legend: Sequence[tuple]
) -> Image.Image:
    """Blend an image with the colors of its label map ``(H, W)``, and add a legend of colors and texts."""
    colors = np.array(palette, np.uint8)
    return with_legend(Image.blend(image, Image.fromarray(colors[labels]), 0.5), legend)


def with_legend(picture: Image.Image, rows: Sequence[tuple[tuple[int, ...], str]]) -> Image.Image:
    """Add a white strip at the right of a picture, with a color and a text in each row."""
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
