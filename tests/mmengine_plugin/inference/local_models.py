"""Models whose output depends on nearby pixels only, so that tiles must have the results of the whole image."""

from pathlib import Path

import numpy as np
import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import InstanceData, PixelData
from scipy import ndimage

from mmengine_plugin.predict import Predictor

CLASSES = ('red', 'blue')
PALETTE = ((255, 0, 0), (0, 0, 255))


@MODELS.register_module()
class ColorDetector(BaseModel):
    """Detects each connected region of pure red or pure blue."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, inputs: list, data_samples: list, mode: str) -> list:
        images = [np.asarray(image.permute(1, 2, 0))[..., ::-1] for image in inputs]
        return [self.detect(image, sample) for image, sample in zip(images, data_samples, strict=True)]

    @staticmethod
    def detect(image: np.ndarray, sample):
        boxes, labels, masks = [], [], []
        for label, color in enumerate(PALETTE):
            regions, count = ndimage.label((image == color).all(-1), np.ones((3, 3)))
            for number, (rows, columns) in enumerate(ndimage.find_objects(regions), 1):
                boxes.append([columns.start, rows.start, columns.stop, rows.stop])
                labels.append(label)
                masks.append(regions == number)
        sample.pred_instances = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            labels=torch.tensor(labels, dtype=torch.long),
            scores=torch.full((len(boxes),), 0.9),
            masks=torch.from_numpy(np.array(masks, bool).reshape(-1, *image.shape[:2])),
        )
        return sample


@MODELS.register_module()
class BlurSegmentor(ColorDetector):
    """Labels a pixel 1 if the 17x17 pixels around it are bright on average; beyond the border, all are black."""

    @staticmethod
    def detect(image: np.ndarray, sample):
        mean = ndimage.uniform_filter(image[..., 0].astype(np.float32), 17, mode='constant')
        sample.pred_sem_seg = PixelData(data=torch.from_numpy((mean > 100).astype(np.uint8))[None])
        return sample


def local_predictor(folder: Path, task: str) -> Predictor:
    """A predictor with one of the models: ``task`` is ``'det'`` or ``'seg'``."""
    model, scope, pack = dict(
        det=('ColorDetector', 'mmdet', 'PackDetInputs'), seg=('BlurSegmentor', 'mmseg', 'PackSegInputs')
    )[task]
    config = folder / f'{task}.py'
    config.write_text(
        f'default_scope = {scope!r}\n'
        f"model = dict(type='mmengine.{model}')\n"
        f"pipeline = [dict(type='LoadImageFromFile'), dict(type={pack!r})]\n"
        'test_dataloader = dict(dataset=dict(pipeline=pipeline))\n'
    )
    meta = dict(dataset_meta=dict(classes=CLASSES, palette=PALETTE))
    torch.save(dict(state_dict=ColorDetector().state_dict(), meta=meta), folder / f'{task}.pth')
    return Predictor(config, folder / f'{task}.pth', 'cpu')
