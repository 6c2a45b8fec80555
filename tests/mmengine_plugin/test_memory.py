"""What a training step keeps is counted by closed form, by part, for any architecture, and the same each time."""

import copy
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import ExponentialMovingAverage
from mmengine.optim import build_optim_wrapper
from torch import nn

import mmdet_plugin  # noqa: F401  (provides mmcv's compiled operators)
import mmseg_plugin  # noqa: F401
import timm_plugin  # noqa: F401
from mmengine_plugin.compat.private_names import is_batch_norm
from mmengine_plugin.data.random_batch import random_batch
from mmengine_plugin.memory import build_for_training, count_kept, kept_by_part, training_batch, training_shape
from tests.conftest import CLASSIFICATION, DETECTION, ROOT, SEGMENTATION, SWIN

SMALL = (128, 160)


class TwoParts(nn.Module):
    """Two products, and one outside of both; a buffer and a weight are kept, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 16, bias=False), nn.Sequential(nn.Linear(16, 16, bias=False))
        self.register_buffer('scale', torch.ones(32, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keeps x, then (once) what the first part returns, then the exponentials."""
        hidden = self.first(x)
        return self.second(hidden * self.scale) * hidden.exp()


def test_each_part_is_counted_by_closed_form_and_the_models_own_tensors_are_not():
    model, size = TwoParts(), 32 * 16 * 4
    forward = partial(model, torch.ones(32, 16))
    # the first part keeps the image, the second one the scaled input; outside, both factors and no buffer
    assert kept_by_part(forward, model, ['first', 'second']) == dict(first=size, second=size, rest=2 * size)
    assert kept_by_part(forward, model, ['second']) == dict(second=size, rest=3 * size)
    assert kept_by_part(forward, model, ['second.0', 'first', 'second']) == {
        'second.0': size,
        'first': size,
        'rest': 2 * size,
    }
    with torch.no_grad():
        assert kept_by_part(forward, model, ['first']) == {}
    assert not model.first._forward_hooks and not model.second[0]._forward_pre_hooks


@cache
def read(path: Path) -> Config:
    """The config in a file."""
    return Config.fromfile(path)


def settings(path: Path, **backbone: object) -> Config:
    """The config in a file, with changes of its backbone."""
    cfg = copy.deepcopy(read(path))
    cfg.model.backbone.update(backbone)
    return cfg


def test_the_figures_of_a_detector_are_the_same_each_time_and_follow_its_settings():
    kept = count_kept(settings(DETECTION), SMALL)
    assert kept['training_shape'] == list(SMALL)
    assert kept['kept_bytes'] == sum(kept['kept_by_part'].values())
    assert {'backbone', 'neck', 'rpn_head', 'roi_head.bbox_head', 'roi_head.mask_head'} < kept['kept_by_part'].keys()
    torch.rand(3)  # whatever was drawn before
    assert count_kept(settings(DETECTION, drop_path_rate=0.9), SMALL) == kept  # the most that a step keeps
    backbones = [
        count_kept(settings(DETECTION, **change), SMALL)['kept_by_part'].get('backbone', 0)
        for change in (dict(gated_cnn='eager'), dict(with_cp=True), dict(frozen_stages=4, out_norm=False))
    ]
    backbones.insert(1, kept['kept_by_part']['backbone'])
    assert backbones == sorted(backbones, reverse=True) and len(set(backbones)) == 4 and backbones[-1] == 0


def test_a_segmentor_and_a_classifier_are_counted_at_the_size_of_their_training():
    for path, shape in ((SEGMENTATION, [128, 128]), (CLASSIFICATION, [96, 96])):
        kept = count_kept(settings(path))
        assert kept['training_shape'] == shape
        fewer = count_kept(settings(path, with_cp=True))
        assert fewer['kept_by_part'].pop('backbone') < kept['kept_by_part'].pop('backbone')
        assert fewer['kept_by_part'] == kept['kept_by_part']  # it changes the backbone alone
    sizes = {'mask_rcnn': (800, 1280), 'upernet': (512, 512), 'imagenet': (224, 224)}
    for name, size in sizes.items():
        assert training_shape(Config.fromfile(ROOT / f'configs/{name}_mambaout_tiny.py')) == size


COCO, ADE20K = (path.parents[1] for path in SWIN.values())  # folders of upstream's configs
ARCHITECTURES = {
    COCO / 'retinanet/retinanet_r50_fpn_1x_coco.py': {'neck', 'bbox_head'},
    COCO / 'dino/dino-4scale_r50_8xb2-12e_coco.py': {'encoder', 'decoder', 'bbox_head'},
    COCO / 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py': {'bbox_head'},  # its assigner takes no masks
    ADE20K / 'mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py': {'decode_head', 'rest'},
    ADE20K / 'sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py': {'neck', 'decode_head'},
}
OTHERS = {
    COCO / 'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py': {'panoptic_head', 'rest'},
    COCO / 'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py': {'roi_head.bbox_head', 'roi_head.mask_head'},
    COCO / 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py': {'rpn_head', 'roi_head.bbox_head'},
    COCO / 'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py': {'semantic_head', 'roi_head.mask_head'},
    ADE20K / 'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py': {'decode_head'},
}


@pytest.mark.parametrize(
    ('path', 'parts'),
    [pytest.param(*case, id=case[0].stem) for case in ARCHITECTURES.items()]
    + [pytest.param(*case, id=case[0].stem, marks=pytest.mark.full_size) for case in OTHERS.items()],
)
def test_upstreams_architectures_are_counted_without_their_pretrained_weights(path, parts):
    kept = count_kept(read(path), (192, 288))
    assert parts | {'backbone'} <= kept['kept_by_part'].keys()
    assert kept['kept_bytes'] == sum(kept['kept_by_part'].values())


def test_batch_norms_keep_as_much_with_running_statistics_as_with_those_of_the_batch():
    model = build_for_training(settings(SEGMENTATION))
    batch = dict(
        inputs=torch.rand(2, 3, 64, 64), data_samples=random_batch('segmentation', 2, 64, 64, 3)['data_samples']
    )
    running = kept_by_part(lambda: model(**batch, mode='loss'), model)
    for module in model.modules():
        if is_batch_norm(module):
            module.train()
    batches = kept_by_part(lambda: model(**batch, mode='loss'), model)
    assert running['rest'] == pytest.approx(batches['rest'], rel=0.01) != 0


def test_masks_are_there_if_the_recipe_loads_them():
    cfg = read(DETECTION)
    assert 'masks' in training_batch(cfg, *SMALL)['data_samples'][0].gt_instances
    boxes = Config.fromfile(ROOT / 'configs/mini/faster_rcnn_mambaout_mini.py')
    assert 'masks' not in training_batch(boxes, *SMALL)['data_samples'][0].gt_instances


def test_weights_gradients_and_adamw_take_16_bytes_for_each_parameter_and_an_average_4():
    cfg = settings(CLASSIFICATION, frozen_stages=1)
    model = build_for_training(cfg)
    optimizer = build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper))
    loss = model(**training_batch(cfg, 96, 96), mode='loss')['loss']
    loss.backward()
    optimizer.optimizer.step()
    states = [x for state in optimizer.optimizer.state.values() for x in state.values() if x.ndim]  # no counter
    trained = [p for p in model.parameters() if p.requires_grad]
    held = [*trained, *(p.grad for p in trained), *states]
    assert sum(x.nbytes for x in held) == 16 * sum(p.numel() for p in trained)
    assert len(trained) < len(list(model.parameters()))  # of which the others take 4
    average = ExponentialMovingAverage(model)
    assert sum(p.nbytes for p in average.module.parameters()) == 4 * sum(p.numel() for p in model.parameters())
