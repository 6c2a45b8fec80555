"""Detectors and segmentors of mmdet and mmseg take the backbone by one line and the numbers of its channels."""

import math

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData

CONFIGS = {
    'a single-stage detector': (
        'mmdet::atss/atss_r50_fpn_1x_coco.py',
        "model = dict(backbone=dict(_delete_=True, type='MambaOut', arch='femto', out_indices=(1, 2, 3)), "
        'neck=dict(in_channels=[96, 192, 288], start_level=0))',  # its FPN has no stride 4
    ),
    'another segmentation head': (
        'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
        "model = dict(backbone=dict(_delete_=True, type='MambaOut', arch='femto'), "
        'decode_head=dict(in_channels=[48, 96, 192, 288], norm_cfg=dict(type="BN")))',
    ),
}


def batch(scope: str) -> dict:
    """Two images of 256x256 pixels with one object each, as data loaders return them."""
    images = [torch.randint(0, 256, (3, 256, 256), dtype=torch.uint8) for _ in range(2)]
    meta = dict(img_shape=(256, 256), ori_shape=(256, 256), scale_factor=(1.0, 1.0), batch_input_shape=(256, 256))
    if scope == 'mmdet':
        from mmdet.structures import DetDataSample as Sample

        boxes = torch.tensor([[16.0, 24.0, 80.0, 96.0]])
        labels = dict(gt_instances=InstanceData(bboxes=boxes, labels=torch.tensor([3])))
    else:
        from mmseg.structures import SegDataSample as Sample

        labels = dict(gt_sem_seg=PixelData(data=torch.randint(0, 150, (1, 256, 256))))
    samples = []
    for _ in images:
        samples.append(Sample(metainfo=meta))
        for name, label in labels.items():
            setattr(samples[-1], name, label.clone())
    return dict(inputs=images, data_samples=samples)


@pytest.mark.parametrize('name', CONFIGS)
def test_an_architecture_takes_one_training_step(name, tmp_path):
    base, line = CONFIGS[name]
    plugin = base[: base.index('::')] + '_plugin'
    imports = f"custom_imports = dict(imports=['{plugin}'], allow_failed_imports=False)"
    (tmp_path / 'mine.py').write_text(f'_base_ = {base!r}\n{imports}\n{line}\n')
    cfg = Config.fromfile(tmp_path / 'mine.py')
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    np.random.seed(0)
    cfg.model.pop('pretrained', None)  # no network
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    before = {k: v.clone() for k, v in model.named_parameters()}
    reached = set()
    for k, v in model.backbone.named_parameters():
        v.register_post_accumulate_grad_hook(lambda v, k=k: reached.add(k) if v.grad.isfinite().all() else None)
    losses = model.train_step(batch(cfg.default_scope), build_optim_wrapper(model, cfg.optim_wrapper))
    assert all(math.isfinite(value.item()) for value in losses.values())
    assert reached == {k for k, _ in model.backbone.named_parameters()}
    assert any(not torch.equal(before[k], v) for k, v in model.backbone.named_parameters(prefix='backbone'))
