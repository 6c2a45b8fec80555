"""``mmcv._ext`` on torchvision's own C++/CUDA ops, for an mmcv without its compiled module (the wheel mmcv-lite).

The definitions are those of mmcv 2.1.0's ``ops/csrc``, the argument names those of its ``pytorch/pybind.cpp``.
"""

import functools
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from .private_names import roi_align_backward as torchvision_roi_align_backward

NAME = 'mmcv._ext'
SUPPORTED = (
    'nms', 'roi_align_forward', 'roi_align_backward', 'sigmoid_focal_loss_forward', 'sigmoid_focal_loss_backward',
    'ms_deform_attn_forward', 'ms_deform_attn_backward', 'get_compiler_version', 'get_compiling_cuda_version',
)  # fmt: skip
ADVICE = (
    'needs compiled ops, which this installation of mmcv-lite lacks and no config of MambaOut calls; install a '
    'compiled mmcv==2.1.0: pip uninstall mmcv-lite; pip install "setuptools<82"; '
    'pip install --no-build-isolation mmcv==2.1.0'
)


def _widen(*tensors: Tensor) -> list[Tensor]:
    """All in one dtype, at least fp32: CPU torchvision has no bf16 kernels, and coordinates outgrow fp16's digits."""
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)
    return [t.to(dtype) for t in tensors]


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Find the boxes to keep; returns their indices by descending score, equal scores in their order (``cpu/nms.cpp``).

    Args:
        boxes: (N, 4), x1, y1, x2, y2 in pixels.
        scores: (N,).
        iou_threshold: A box is dropped if its IoU with a kept box is greater, in fp32 as in mmcv: at 0.6, 6 / 10 stays.
        offset: 0 or 1; the side of a box is x2 - x1 + offset.
    """
    boxes, scores = _widen(boxes, scores)
    if offset:
        boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), dim=1)
    return torchvision.ops.nms(boxes, scores, float(np.float32(iou_threshold)))


def roi_align_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, aligned_height: int,
    aligned_width: int, spatial_scale: float, sampling_ratio: int, pool_mode: int, aligned: bool,
) -> None:  # fmt: skip
    """RoIAlign of input (B, C, H, W) into output (K, C, aligned_height, aligned_width) (``cpu/roi_align.cpp``).

    Args:
        rois: (K, 5), index into B, then x1, y1, x2, y2; times `spatial_scale`, pixels of input.
        argmax_y: Not used; max pooling is not supported.
        argmax_x: Not used.
        sampling_ratio: Points per bin and axis; 0 for the bin's size, rounded up.
        pool_mode: 1, average; 0, maximum, is not in torchvision.
        aligned: Shift by half a pixel of input; if False, a side is at least one pixel of input.

    Raises:
        NotImplementedError: If pool_mode is 0.
        RuntimeError: On CPU, if aligned and a RoI is inverted or NaN, as in mmcv. (On CUDA neither looks.)
    """
    if pool_mode == 0:
        raise NotImplementedError(f"mmcv op 'roi_align_forward' with pool_mode='max' {ADVICE}")
    if aligned and rois.device.type == 'cpu' and not (rois[:, 3:] >= rois[:, 1:3]).all():
        raise RuntimeError('roi_align: a RoI has x2 < x1, y2 < y1 or NaN')
    grid = (spatial_scale, aligned_height, aligned_width, sampling_ratio, aligned)
    output.copy_(torch.ops.torchvision.roi_align(*_widen(input, rois), *grid))


def roi_align_backward(
    grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor, aligned_height: int,
    aligned_width: int, spatial_scale: float, sampling_ratio: int, pool_mode: int, aligned: bool,
) -> None:  # fmt: skip
    """Adds the gradient of `roi_align_forward` by input to grad_input (B, C, H, W); other arguments as there."""
    grid = (spatial_scale, aligned_height, aligned_width, *grad_input.shape, sampling_ratio, aligned)
    grad_input += torchvision_roi_align_backward(*_widen(grad_output, rois), *grid)


def _signed(input: Tensor, target: Tensor, weight: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """+1 for the target's class, -1 elsewhere; that times the logit; alpha_t times the class's weight. All (N, C)."""
    input, weight = _widen(input, weight)
    positive = (target[:, None] == torch.arange(input.size(1), device=target.device)).to(input.dtype)
    factor = alpha * positive + (1 - alpha) * (1 - positive)
    if weight.numel():  # background, C or -1, weighs 1: mmcv reads past the weights' end
        factor = factor * F.pad(weight, (0, 1), value=1.0)[target, None]
    sign = 2 * positive - 1
    return sign, sign * input, factor


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """-alpha_t (1 - p_t)^gamma log p_t (Lin et al. 2017, eq. 5), written into output (N, C).

    In fp32, mmcv's 1 - p is 0 from logits of 17 on, and a negative's -log p_t is -log(FLT_MIN) = 87.3; here, the logit.

    Args:
        input: (N, C), logits.
        target: (N,), classes; C or -1 is background: negative for every class, none is ignored.
        weight: (C,), weights of the target's classes, or (0,).

    Raises:
        RuntimeError: If a target is greater than C.
    """
    if target.numel() and target.max() > input.size(1):
        raise RuntimeError(f'sigmoid_focal_loss: target {target.max()} for {input.size(1)} classes')
    _, z, factor = _signed(input, target, weight, alpha)
    output.copy_(-factor * torch.sigmoid(-z) ** gamma * F.logsigmoid(z))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """The loss's derivative by the logits (Lin et al. 2017, appendix B), written into grad_input (N, C)."""
    sign, z, factor = _signed(input, target, weight, alpha)
    q = torch.sigmoid(-z)  # 1 - p_t
    grad_input.copy_(-sign * factor * q**gamma * (q - gamma * (1 - q) * F.logsigmoid(z)))


def _attend(value: Tensor, locations: Tensor, weights: Tensor, spatial_shapes: Tensor) -> Tensor:
    from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch  # loads mmcv._ext

    with torch.autocast(value.device.type, enabled=False):
        return multi_scale_deformable_attn_pytorch(value, spatial_shapes.tolist(), locations, weights)


def ms_deform_attn_forward(
    value: Tensor, value_spatial_shapes: Tensor, value_level_start_index: Tensor, sampling_locations: Tensor,
    attention_weights: Tensor, im2col_step: int,
) -> Tensor:  # fmt: skip
    """Multi-scale deformable attention (Zhu et al. 2021, eq. 3) in mmcv's own grid_sample form; (B, Q, M * D).

    Args:
        value: (B, sum of H_l * W_l, M, D) for M heads, the L levels one after another.
        value_spatial_shapes: (L, 2), H_l and W_l.
        value_level_start_index: Not used; mmcv's CUDA kernel needs it.
        im2col_step: Not used; mmcv's CUDA kernel needs it.
        sampling_locations: (B, Q, M, L, P, 2), x and y, the map being [0, 1]; zeros lie outside.
        attention_weights: (B, Q, M, L, P).
    """
    inputs = _widen(value, sampling_locations, attention_weights)
    return _attend(*inputs, value_spatial_shapes).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor, value_spatial_shapes: Tensor, value_level_start_index: Tensor, sampling_locations: Tensor,
    attention_weights: Tensor, grad_output: Tensor, grad_value: Tensor, grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor, im2col_step: int,
) -> None:  # fmt: skip
    """Writes the gradients of `ms_deform_attn_forward`, recomputed, into the three grad_ tensors after grad_output."""
    *inputs, grad_output = _widen(value, sampling_locations, attention_weights, grad_output)
    with torch.enable_grad():
        inputs = [t.detach().requires_grad_() for t in inputs]
        output = _attend(*inputs, value_spatial_shapes)
    grads = torch.autograd.grad(output, inputs, grad_output)
    for written, grad in zip((grad_value, grad_sampling_loc, grad_attn_weight), grads, strict=True):
        written.copy_(grad)


def get_compiler_version() -> str:
    """For `collect_env`: who compiled the ops."""
    return f'none; ops of torchvision {torchvision.__version__}'


def get_compiling_cuda_version() -> str:
    """For `collect_env`: torch's CUDA, which torchvision checks against its own."""
    return torch.version.cuda or 'not available'


def _unsupported(name: str) -> Callable:
    """Any other op: there, since mmcv.ops looks for all of them when imported, but not to be called."""
    if name.startswith('_'):
        raise AttributeError(f'module {NAME!r} has no attribute {name!r}')

    def op(*args, **kwargs):
        raise NotImplementedError(f'mmcv op {name!r} {ADVICE}')

    return op


class _Loader(importlib.abc.Loader):
    """A module with a loader and a spec is one to `find_spec`, mmcv's `check_ops_exist`, mmengine's like."""

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update({name: globals()[name] for name in SUPPORTED}, __getattr__=_unsupported)


def install() -> bool:
    """Makes these functions `mmcv._ext`, unless there is another, compiled one; returns whether they are it."""
    if NAME not in sys.modules and importlib.util.find_spec(NAME) is None:
        spec = ModuleSpec(NAME, _Loader(), origin=__file__)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[NAME] = sys.modules['mmcv']._ext = module
    return isinstance(getattr(sys.modules.get(NAME), '__loader__', None), _Loader)
