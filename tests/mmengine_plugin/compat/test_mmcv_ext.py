"""``mmcv._ext`` of torchvision's ops keeps to mmcv's definitions, here written out as scalar loops in fp64."""

import importlib
import importlib.util
import itertools
import math
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from mmengine_plugin.compat import mmcv_ext

FALLBACK = mmcv_ext.install()
pytestmark = pytest.mark.skipif(not FALLBACK, reason='a compiled mmcv is installed and used instead')
if FALLBACK:
    from mmcv.ops import batched_nms, nms, roi_align, sigmoid_focal_loss
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

REPOSITORY = Path(__file__).resolve().parents[3]


@pytest.fixture(params=['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu'])
def device(request):
    return request.param


@pytest.fixture(autouse=True, scope='module')
def _one_thread():
    """The tensors are tiny: threads waiting for each other would take most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


# ---------------------------------------------------------------------------------------------------------------- nms


def nms_oracle(boxes, scores, threshold, offset=0):
    """Greedy suppression, pair by pair (Python's sort is stable)."""
    boxes, threshold = boxes.tolist(), float(np.float32(threshold))

    def suppresses(a, b):
        width = max(0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
        height = max(0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
        areas = [(x2 - x1 + offset) * (y2 - y1 + offset) for x1, y1, x2, y2 in (a, b)]
        union = sum(areas) - width * height
        return union != 0 and width * height / union > threshold

    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -float(scores[i])):
        if not any(suppresses(boxes[k], boxes[i]) for k in kept):
            kept.append(i)
    return kept


def random_boxes(n, size=100.0, side=30.0):
    corner = torch.rand(n, 2) * size
    return torch.cat((corner, corner + torch.rand(n, 2) * side), dim=1)


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.0, 0.3, 0.5, 0.7, 1.0])
def test_nms_keeps_what_the_definition_keeps(device, threshold, offset):
    boxes, scores = random_boxes(200), torch.rand(200)
    dets, kept = nms(boxes.to(device), scores.to(device), threshold, offset=offset)
    assert kept.tolist() == nms_oracle(boxes, scores, threshold, offset)
    assert dets.cpu().equal(torch.cat((boxes, scores[:, None]), dim=1)[kept.cpu()])


@pytest.mark.parametrize('offset', [0, 1])
def test_nms_of_equal_scores_keeps_their_order(device, offset):
    boxes, scores = torch.randint(0, 12, (60, 4)).float(), torch.randint(0, 3, (60,)).float()
    boxes = torch.cat((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), dim=1)  # some without area
    assert nms(boxes.to(device), scores.to(device), 0.45, offset)[1].tolist() == nms_oracle(boxes, scores, 0.45, offset)


@pytest.mark.parametrize('tenths', range(1, 10))
def test_nms_keeps_a_box_whose_iou_is_the_threshold(device, tenths):
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, tenths]], device=device)
    scores = torch.tensor([0.9, 0.8], device=device)
    assert nms(boxes, scores, tenths / 10)[1].tolist() == [0, 1]
    assert nms(boxes, scores, tenths / 10 - 1e-6)[1].tolist() == [0]


def test_nms_by_offset_sees_single_pixels():
    boxes, scores = torch.tensor([[3.0, 3, 3, 3], [3, 3, 3, 3], [4, 3, 4, 3]]), torch.tensor([0.1, 0.3, 0.2])
    assert nms(boxes, scores, 0.5, offset=0)[1].tolist() == [1, 2, 0]  # of no area: IoU is 0 / 0
    assert nms(boxes, scores, 0.5, offset=1)[1].tolist() == [1, 2]


def test_nms_puts_nan_scores_first_and_keeps_nan_boxes(device):
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [math.nan, 0, 9, 9], [0, 0, 9, 9]], device=device)
    scores = torch.tensor([0.9, math.nan, 0.8, 0.7], device=device)
    assert nms(boxes, scores, 0.5)[1].tolist() == [1, 2]


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_nms_takes_any_dtype_mixed_dtypes_columns_and_nothing(device, dtype):
    dets = torch.cat((random_boxes(50).round(), torch.rand(50, 1)), dim=1).to(device, dtype)
    expected = nms_oracle(dets[:, :4].double(), dets[:, 4], 0.5)
    assert mmcv._ext.nms(dets[:, :4], dets[:, 4], iou_threshold=0.5, offset=0).tolist() == expected
    assert mmcv._ext.nms(dets[:, :4].float(), dets[:, 4], iou_threshold=0.5, offset=0).tolist() == expected
    nothing = mmcv._ext.nms(dets[:0, :4], dets[:0, 4], iou_threshold=0.5, offset=1)
    assert nothing.shape == (0,) and nothing.dtype == torch.long and nothing.device == dets.device


@pytest.mark.parametrize('class_agnostic, split_thr', [(False, 10000), (False, 50), (True, 10000)])
def test_batched_nms_of_mmcv(device, class_agnostic, split_thr):
    boxes, scores, classes = random_boxes(120), torch.rand(120), torch.randint(0, 3, (120,))
    groups = [torch.arange(120)] if class_agnostic else [(classes == c).nonzero().flatten() for c in range(3)]
    kept = [i for g in groups for i in g[nms_oracle(boxes[g], scores[g], 0.4)].tolist() if scores[i] > 0.2]
    expected = sorted(kept, key=lambda i: -scores[i])[:10]

    config = dict(type='nms', iou_threshold=0.4, score_threshold=0.2, max_num=10, split_thr=split_thr)
    dets, found = batched_nms(boxes.to(device), scores.to(device), classes.to(device), config, class_agnostic)
    assert found.tolist() == expected
    torch.testing.assert_close(dets.cpu(), torch.cat((boxes, scores[:, None]), dim=1)[expected])


# ---------------------------------------------------------------------------------------------------------- roi_align


def bilinear(plane, y, x):
    height, width = len(plane), len(plane[0])
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = plane[top][left] * (left + 1 - x) + plane[top][right] * (x - left)
    lower = plane[bottom][left] * (left + 1 - x) + plane[bottom][right] * (x - left)
    return upper * (top + 1 - y) + lower * (y - top)


def roi_align_oracle(input, rois, size, scale, sampling_ratio, aligned):
    out = torch.zeros(len(rois), input.shape[1], *size, dtype=torch.float64)
    for k, (b, *corners) in enumerate(rois.tolist()):
        x1, y1, x2, y2 = (c * scale - 0.5 * aligned for c in corners)
        sides = (y2 - y1, x2 - x1) if aligned else (max(y2 - y1, 1), max(x2 - x1, 1))
        bin_h, bin_w = (side / n for side, n in zip(sides, size, strict=True))
        ny, nx = sampling_ratio or math.ceil(bin_h), sampling_ratio or math.ceil(bin_w)
        for c, i, j in itertools.product(*map(range, out.shape[1:])):
            plane = input[int(b), c].tolist()
            ys = [y1 + bin_h * (i + (n + 0.5) / ny) for n in range(ny)]
            xs = [x1 + bin_w * (j + (n + 0.5) / nx) for n in range(nx)]
            out[k, c, i, j] = sum(bilinear(plane, y, x) for y in ys for x in xs) / max(ny * nx, 1)
    return out


ROIS = torch.tensor(
    [
        [0, 3.0, 5.0, 17.0, 14.0],
        [1, 2.3, 1.7, 20.9, 9.1],
        [1, -9.0, -7.0, 5.0, 30.0],  # over the upper left border
        [0, 15.2, 12.1, 41.0, 45.0],  # over the lower right one
        [1, 60.0, 70.0, 66.0, 80.0],  # outside
        [0, 7.1, 6.3, 7.4, 6.4],  # much smaller than a bin
        [1, 8.0, 8.0, 8.0, 8.0],  # of no area
        [0, 8.0, 3.0, 8.0, 17.0],  # of no width
    ]
)


@pytest.mark.parametrize('size', [(1, 1), (2, 3), (7, 4)])
@pytest.mark.parametrize('sampling_ratio', [0, 1, 2, 3])
@pytest.mark.parametrize('aligned', [False, True])
def test_roi_align_is_its_definition(device, aligned, sampling_ratio, size):
    input, scale = torch.randn(2, 2, 6, 7), 0.25
    found = roi_align(input.to(device), ROIS.to(device), size, scale, sampling_ratio, 'avg', aligned)
    expected = roi_align_oracle(input.double(), ROIS.double(), size, scale, sampling_ratio, aligned)
    torch.testing.assert_close(found.double().cpu(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('aligned', [False, True])
def test_roi_align_of_a_ramp_is_its_value_at_the_bins_centres(aligned, sampling_ratio):
    y, x = torch.meshgrid(torch.arange(20.0), torch.arange(30.0), indexing='ij')
    rois = torch.tensor([[0, 8.0, 12, 44, 28]])
    found = roi_align((2 * x - 3 * y + 1)[None, None], rois, (2, 3), 0.5, sampling_ratio, 'avg', aligned)
    shift = 0.5 * aligned
    centres = [[2 * (cx - shift) - 3 * (cy - shift) + 1 for cx in (7, 13, 19)] for cy in (8, 12)]
    torch.testing.assert_close(found[0, 0], torch.tensor(centres))


@pytest.mark.parametrize('sampling_ratio', [0, 2])
@pytest.mark.parametrize('aligned', [False, True])
def test_roi_align_has_its_gradient(device, aligned, sampling_ratio):
    input = torch.randn(2, 2, 6, 7, dtype=torch.float64, device=device, requires_grad=True)
    rois = ROIS.to(input)
    assert gradcheck(lambda t: roi_align(t, rois, (2, 3), 0.25, sampling_ratio, 'avg', aligned), input, nondet_tol=1e-9)


@pytest.mark.parametrize('batch, count', [(2, 0), (0, 0)])
def test_roi_align_of_nothing(device, batch, count):
    input = torch.randn(batch, 3, 6, 7, device=device, requires_grad=True)
    out = roi_align(input, torch.zeros(count, 5, device=device), (2, 3))
    assert out.shape == (count, 3, 2, 3)
    out.sum().backward()
    assert input.grad.shape == input.shape and not input.grad.any()


@pytest.mark.parametrize(
    'dtype, rois_dtype',
    [(torch.float16, torch.float16), (torch.float16, torch.float32), (torch.bfloat16, torch.bfloat16)],
)
def test_roi_align_in_half_precision_is_fp32_rounded(device, dtype, rois_dtype):
    input = torch.randn(2, 2, 6, 7, device=device).to(dtype).requires_grad_()
    wide = input.detach().float().requires_grad_()
    rois = ROIS.to(device, rois_dtype)
    found, expected = roi_align(input, rois, (3, 3), 0.25), roi_align(wide, rois.float(), (3, 3), 0.25)
    assert found.dtype == dtype and found.equal(expected.to(dtype))
    found.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(input.grad, wide.grad.to(dtype))


def test_roi_align_of_strided_tensors(device):
    input, rois = torch.randn(2, 4, 6, 7, device=device), ROIS.to(device)
    expected = roi_align(input, rois, (2, 3), 0.25)
    strided = input.to(memory_format=torch.channels_last), torch.cat((rois, rois), dim=1)[:, :5]
    assert roi_align(*strided, (2, 3), 0.25).equal(expected)


@pytest.mark.parametrize('roi', [(5.0, 1, 2, 4), (1, 5, 4, 2), (5, 5, 2, 2), (math.nan, 1, 4, 4)])
def test_roi_align_on_cpu_refuses_inverted_rois_as_mmcv_does(roi):
    input, rois = torch.ones(1, 1, 9, 9), torch.tensor([[0, *roi]])
    with pytest.raises(RuntimeError, match='RoI'):
        roi_align(input, rois, (2, 2), 1.0, 0, 'avg', True)
    if not math.isnan(roi[0]):
        assert roi_align(input, rois, (2, 2), 1.0, 0, 'avg', False).eq(1).all()  # a side is at least 1


def test_max_pooling_is_refused_by_name():
    with pytest.raises(NotImplementedError, match='roi_align_forward.*max.*mmcv==2.1.0'):
        roi_align(torch.ones(1, 1, 9, 9), ROIS[:1], (2, 2), 1.0, 0, 'max', True)


# --------------------------------------------------------------------------------------------------------- focal loss


def focal_oracle(input, target, gamma, alpha, weight=None):
    """Lin et al. 2017, eq. 5, for every logit of (N, C)."""
    input = input.detach().cpu()
    out = torch.zeros_like(input, dtype=torch.float64)
    for n, c in itertools.product(*map(range, input.shape)):
        positive = int(target[n]) == c
        log_p = -math.log1p(math.exp(-float(input[n, c]) if positive else float(input[n, c])))
        out[n, c] = -(alpha if positive else 1 - alpha) * (1 - math.exp(log_p)) ** gamma * log_p
        if weight is not None and 0 <= target[n] < input.shape[1]:
            out[n, c] *= weight[target[n]]
    return out


TARGET = torch.tensor([0, 3, 2, 4, -1, 1, 4])  # 4 and -1 are background


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('gamma, alpha', [(2.0, 0.25), (0.5, 0.6), (0.0, 0.5)])
def test_sigmoid_focal_loss_is_the_papers(device, gamma, alpha, weighted):
    input = (3 * torch.randn(7, 4, dtype=torch.float64)).to(device).requires_grad_()
    weight = torch.rand(4, dtype=torch.float64, device=device) if weighted else None
    expected = focal_oracle(input, TARGET, gamma, alpha, weight)
    target = TARGET.to(device)
    for reduction, reduced in (('none', expected), ('sum', expected.sum()), ('mean', expected.sum() / 7)):
        found = sigmoid_focal_loss(input, target, gamma, alpha, weight, reduction)
        torch.testing.assert_close(found.cpu(), reduced)
        assert gradcheck(lambda t, r=reduction: sigmoid_focal_loss(t, target, gamma, alpha, weight, r).sum(), input)


def test_sigmoid_focal_loss_is_mmdets_at_any_logit(device):
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

    logits = torch.tensor([-100.0, -30, -3, 0, 3, 30, 100], device=device)
    ours, theirs = (torch.stack((logits, logits.flip(0)), dim=1).requires_grad_() for _ in range(2))
    target = torch.tensor([0, 1, 2, 0, 1, 2, 0], device=device)
    one_hot = torch.nn.functional.one_hot(target, 3)[:, :2]
    found = sigmoid_focal_loss(ours, target, 2.0, 0.25, None, 'sum')
    expected = py_sigmoid_focal_loss(theirs, one_hot, reduction='sum')
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_sigmoid_focal_loss_in_half_precision(device, dtype):
    input = torch.randn(7, 4, device=device).to(dtype).requires_grad_()
    loss = sigmoid_focal_loss(input, TARGET.to(device), 2.0, 0.25, None, 'none')
    assert loss.dtype == dtype
    torch.testing.assert_close(loss.cpu(), focal_oracle(input.float(), TARGET, 2.0, 0.25).to(dtype))
    loss.sum().backward()
    assert input.grad.isfinite().all()


def test_sigmoid_focal_loss_of_nothing_and_of_unknown_classes():
    none = torch.zeros(0, 4, requires_grad=True)
    sigmoid_focal_loss(none, torch.zeros(0, dtype=torch.long), 2.0, 0.25, None, 'sum').backward()
    assert none.grad.shape == (0, 4)
    with pytest.raises(RuntimeError, match='target 5 for 4 classes'):
        sigmoid_focal_loss(torch.zeros(1, 4), torch.tensor([5]))


# ------------------------------------------------------------------------------------------------------ ms_deform_attn


def deform_attn_oracle(value, shapes, locations, weights):
    """Deformable DETR, eq. 3: values at x * W - 0.5, y * H - 0.5, bilinear, zeros outside."""
    batch, queries, heads, levels, points, _ = locations.shape
    out = torch.zeros(batch, queries, heads, value.shape[3], dtype=torch.float64)
    starts = [0, *itertools.accumulate(h * w for h, w in shapes.tolist())]
    for b, q, m, level, p in itertools.product(*map(range, (batch, queries, heads, levels, points))):
        height, width = shapes[level].tolist()
        x, y = (float(t) * n - 0.5 for t, n in zip(locations[b, q, m, level, p], (width, height), strict=True))
        for row, column in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
            if 0 <= row < height and 0 <= column < width:
                share = (1 - abs(y - row)) * (1 - abs(x - column)) * weights[b, q, m, level, p]
                out[b, q, m] += share * value[b, starts[level] + row * width + column, m]
    return out.flatten(2)


def deform_attn_inputs(device='cpu', dtype=torch.float64):
    """Two levels, three heads; a third of the points lies outside its map."""
    shapes = torch.tensor([[3, 4], [2, 1]], device=device)
    starts = torch.tensor([0, 12], device=device)
    value = torch.randn(2, 14, 3, 2, dtype=dtype, device=device, requires_grad=True)
    locations = (torch.rand(2, 4, 3, 2, 2, 2, dtype=dtype, device=device) * 1.4 - 0.2).requires_grad_()
    weights = torch.rand(2, 4, 3, 2, 2, dtype=dtype, device=device, requires_grad=True)
    return value, shapes, starts, locations, weights, 64


def test_deformable_attention_is_its_definition(device):
    value, shapes, starts, locations, weights, step = deform_attn_inputs(device)
    assert ((locations < 0) | (locations > 1)).any(dim=-1).float().mean() > 0.2
    found = MultiScaleDeformableAttnFunction.apply(value, shapes, starts, locations, weights, step)
    cpu = [t.detach().cpu() for t in (value, shapes, locations, weights)]
    torch.testing.assert_close(found.detach().cpu(), deform_attn_oracle(*cpu))


def test_deformable_attention_has_its_gradients(device):
    assert gradcheck(MultiScaleDeformableAttnFunction.apply, deform_attn_inputs(device), nondet_tol=1e-9)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_deformable_attention_under_autocast(device, dtype):
    value, shapes, starts, locations, weights, step = deform_attn_inputs(device, torch.float32)
    with torch.autocast(device, dtype=dtype):
        found = MultiScaleDeformableAttnFunction.apply(value.to(dtype), shapes, starts, locations, weights, step)
        found.sum().backward()
    assert found.dtype == dtype and value.grad.dtype == locations.grad.dtype == torch.float32
    rounded = [t.detach().to(dtype).double().cpu() for t in (value, locations, weights)]
    expected = deform_attn_oracle(rounded[0], shapes.cpu(), *rounded[1:])
    torch.testing.assert_close(found.detach().cpu(), expected.to(dtype))


# ---------------------------------------------------------------------------------------- what configs reach on CUDA

FOCAL_LOSS = {'sigmoid_focal_loss_forward', 'sigmoid_focal_loss_backward'}
DEFORM_ATTN = {'ms_deform_attn_forward', 'ms_deform_attn_backward'}
DETR = dict(
    neck=dict(in_channels=[16, 32, 64]), encoder=dict(num_layers=1), decoder=dict(num_layers=1), num_queries=10,
    test_cfg=dict(max_per_img=10),
)  # fmt: skip
DETECTORS = {  # mmdet's config, what makes it small, and the ops that training and testing it call on CUDA
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py': (
        dict(
            neck=dict(in_channels=[8, 16, 32, 64]),
            roi_head=dict(bbox_head=dict(fc_out_channels=16), mask_head=dict(num_convs=1)),
            train_cfg=dict(rpn_proposal=dict(max_per_img=20), rcnn=dict(sampler=dict(num=8))),
            test_cfg=dict(rpn=dict(max_per_img=20)),
        ),
        {'nms', 'roi_align_forward', 'roi_align_backward'},
    ),
    'retinanet/retinanet_r50_fpn_1x_coco.py': (
        dict(
            neck=dict(in_channels=[8, 16, 32, 64]),
            bbox_head=dict(stacked_convs=1),
            test_cfg=dict(score_thr=0.0, nms_pre=20),
        ),
        {'nms'} | FOCAL_LOSS,
    ),
    'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py': (DETR, DEFORM_ATTN | FOCAL_LOSS),
    'dino/dino-4scale_r50_8xb2-12e_coco.py': (DETR, DEFORM_ATTN | FOCAL_LOSS),
    'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py': (
        dict(
            panoptic_head=dict(
                in_channels=[8, 16, 32, 64],
                num_queries=10,
                pixel_decoder=dict(encoder=dict(num_layers=1)),
                transformer_decoder=dict(num_layers=1),
            ),
            train_cfg=dict(num_points=50),
            test_cfg=dict(max_per_image=10),
        ),
        DEFORM_ATTN,
    ),
}


def build_detector(config, changes):
    import mmdet.models  # noqa: F401
    from mmengine.hub import get_config
    from mmengine.registry import MODELS, DefaultScope

    cfg = get_config(f'mmdet::{config}')
    backbone = dict(type='ResNet', depth=18, base_channels=8, out_indices=cfg.model.backbone.out_indices)
    cfg.merge_from_dict(dict(model=dict(changes, backbone=dict(backbone, _delete_=True))))
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    model.init_weights()  # DETR's embeddings are uninitialised memory before
    return model


def run_detector(model):
    """Loss and gradient norm of one step on two images of one object each, then a prediction."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    torch.manual_seed(1)
    mask = np.zeros((1, 64, 64), dtype=np.uint8)
    mask[:, 8:40, 8:40] = 1
    truth = InstanceData(
        bboxes=torch.tensor([[8.0, 8, 40, 40]]), labels=torch.tensor([3]), masks=BitmapMasks(mask, 64, 64)
    )
    shape = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), (64, 64))
    samples = [DetDataSample(metainfo=dict(shape, scale_factor=(1, 1)), gt_instances=truth) for _ in range(2)]

    model.train().zero_grad()
    images = torch.randn(2, 3, 64, 64)
    loss, _ = model.parse_losses(model.loss(images, samples))
    loss.backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    model.eval()
    with torch.no_grad():
        model.predict(images, samples, rescale=False)
    return loss.detach(), torch.cat(gradients).norm()


@pytest.mark.parametrize('config', DETECTORS)
def test_what_a_detector_calls_on_cuda_is_provided_and_agrees_with_its_cpu_branch(config, monkeypatch):
    changes, expected = DETECTORS[config]
    model, called = build_detector(config, changes), set()
    on_cpu = run_detector(model)

    for name in mmcv_ext.SUPPORTED:
        op = getattr(mmcv._ext, name)
        monkeypatch.setattr(mmcv._ext, name, lambda *a, op=op, **k: (called.add(op.__name__), op(*a, **k))[1])
    with monkeypatch.context() as pretend:  # CPU tensors, CUDA's branches of mmcv and mmdet
        pretend.setattr(torch.Tensor, 'is_cuda', True)
        pretend.setattr(torch.cuda, 'is_available', lambda: True)
        pretend.setattr('mmcv.ops.multi_scale_deform_attn.IS_CUDA_AVAILABLE', True)
        on_cuda = run_detector(model)
    assert called == expected
    torch.testing.assert_close(on_cuda, on_cpu)


# -------------------------------------------------------------------------------------------------------- the module


def test_a_fresh_process_imports_all_of_openmmlab_and_reports_its_environment():
    """mmcv.ops cannot be imported before, and can after; nobody who probes for compiled ops stumbles."""
    program = """
        import warnings; warnings.simplefilter('ignore')
        try:
            import mmcv.ops
        except ModuleNotFoundError as error:
            assert error.name == 'mmcv._ext'
        else:
            raise AssertionError('mmcv.ops needs no fallback')
        from mmengine_plugin.compat import mmcv_ext
        assert mmcv_ext.install()
        import mmcv.ops, mmdet.models, mmdet.utils, mmengine, mmseg.models, mmseg.utils, torch

        assert 'torchvision' in mmcv.utils.collect_env()['MMCV Compiler']
        assert mmdet.utils.collect_env() and mmseg.utils.collect_env()
        model = mmengine.model.revert_sync_batchnorm(torch.nn.Sequential(torch.nn.SyncBatchNorm(2)))
        optimizer = dict(optimizer=dict(type='SGD', lr=0.1, weight_decay=0.1), paramwise_cfg=dict(norm_decay_mult=0))
        assert mmengine.optim.build_optim_wrapper(model, optimizer)
    """
    result = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(program)], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_an_op_that_is_not_provided_says_so_when_called():
    assert not {'deform_conv_forward', 'softnms'} & set(mmcv_ext.SUPPORTED)
    for call in (
        lambda: mmcv._ext.deform_conv_forward(1, groups=2),
        lambda: mmcv.ops.deform_conv2d(*(torch.ones(s) for s in ((1, 1, 4, 4), (1, 18, 2, 2), (1, 1, 3, 3)))),
    ):
        with pytest.raises(NotImplementedError, match="'deform_conv_forward' needs compiled ops.*install.*mmcv==2.1.0"):
            call()
    with pytest.raises(NotImplementedError, match="'softnms'"):
        mmcv.ops.soft_nms(torch.ones(1, 4), torch.ones(1))


def test_the_module_is_an_ordinary_one():
    spec = importlib.util.find_spec('mmcv._ext')
    assert spec.name == 'mmcv._ext' and spec.loader and sys.modules['mmcv._ext'] is mmcv._ext
    assert not hasattr(mmcv._ext, '__path__') and not hasattr(mmcv._ext, '_private')
    assert all(getattr(mmcv._ext, name) is getattr(mmcv_ext, name) for name in mmcv_ext.SUPPORTED)


def test_install_again_changes_nothing():
    module = sys.modules['mmcv._ext']
    assert mmcv_ext.install()
    assert sys.modules['mmcv._ext'] is mmcv._ext is module


@pytest.fixture
def no_fallback(monkeypatch):
    monkeypatch.delitem(sys.modules, 'mmcv._ext')
    monkeypatch.delattr(mmcv, '_ext')


@pytest.mark.parametrize('imported_before', [False, True])
def test_install_leaves_a_compiled_module_alone(imported_before, tmp_path, monkeypatch, no_fallback):
    (tmp_path / '_ext.py').write_text('def nms(): pass')
    monkeypatch.setattr(mmcv, '__path__', [*mmcv.__path__, str(tmp_path)])
    if imported_before:
        importlib.import_module('mmcv._ext')
    assert not mmcv_ext.install()
    module = importlib.import_module('mmcv._ext')
    assert module.__file__ == str(tmp_path / '_ext.py') and not hasattr(module, 'roi_align_forward')


def test_install_leaves_a_module_of_someone_elses_alone(monkeypatch, no_fallback):
    module = types.ModuleType('mmcv._ext')  # by hand, so it has no spec
    monkeypatch.setitem(sys.modules, 'mmcv._ext', module)
    assert not mmcv_ext.install() and sys.modules['mmcv._ext'] is module
