"""Parameters and multiply-accumulates (MACs) of models, in the convention of the paper's tables."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial
from inspect import signature

import torch
from mmengine.analysis import FlopAnalyzer, parameter_count
from mmengine.analysis.jit_handles import get_shape
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from torch import nn

from backbones.errors import UserError
from backbones.ops import selective_scan

SHAPES = dict(mmdet=(800, 1280), mmseg=(512, 2048))  # height and width in the paper's tables, by default_scope
# What the convention leaves out: elementwise operators, reductions, pooling, sorting, operators on boxes, and the
# weights that interpolate positions and the kernels of S4ND, which do not depend on the image.
UNCOUNTED = set(
    'PythonOp.NMSop PythonOp.RoIAlignFunction _shape_as_tensor _upsample_bicubic2d_aa add add_ argmax cos cumsum div '
    'exp expand_as eye feature_dropout fill_ flip gelu glu im2col linspace log log2 lt mT masked_fill_ max_pool2d '
    'mean meshgrid mul ne neg new_ones one_hot ones_like pad pow repeat rsub s4nd_toeplitz sigmoid silu sin '
    'softmax sort sqrt square sub sum topk unflatten unfold upsample_bicubic2d'.split()
)


def count(cfg: Config, height: int, width: int) -> dict:
    """Count the parameters of a config's model and its MACs for one image, in total and per part.

    A forward pass on random weights is traced. It counts 1 for a multiply-accumulate, 5 for a value under a LayerNorm,
    3 for one under an RMSNorm, 4 for an interpolated value, 9 for each state and position of a selective scan, and 0
    for a batch norm.

    Args:
        cfg: A config of mmdet, of mmseg, or of a model that maps images to anything.
        height: Height of the image in pixels.
        width: Width of the image in pixels.

    Returns:
        ``params`` and ``macs``; ``parts``, with both for each part; ``uncounted``, the number of calls of each operator
        that was left out although it may multiply and accumulate.

    Raises:
        UserError: If the image is too small for the config's number of proposals.
    """
    init_default_scope(cfg.default_scope)
    cfg = copy.deepcopy(cfg)
    wanted = cfg.model.get('test_cfg', {}).get('rpn', {}).get('max_per_img')
    if wanted:
        cfg.model.test_cfg.rpn.nms.iou_threshold = 1.0  # random boxes overlap: suppress none, so that enough remain
    model = MODELS.build(cfg.model).eval()
    proposals = _watch_proposals(model) if wanted else []
    mask_heads = getattr(getattr(model, 'roi_head', None), 'mask_head', None)
    for head in mask_heads if isinstance(mask_heads, nn.ModuleList) else ():
        head.forward = partial(_first_masks, head.forward)
    if cfg.default_scope in SHAPES:
        shapes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), (height, width))
        samples = [BaseDataElement(metainfo=dict(shapes, scale_factor=(1.0, 1.0)))]
        model.forward = partial(model.forward, data_samples=samples, mode='tensor')
        head = getattr(model, 'decode_head', None)
        if head is not None and 'batch_data_samples' in signature(head.forward).parameters:
            head.forward = partial(head.forward, batch_data_samples=samples)  # mmseg leaves Mask2Former's out
    analyzer = _analyzer(model, torch.rand(1, 3, height, width))
    with torch.no_grad():
        macs = analyzer.by_module()
    if wanted and set(proposals) != {wanted}:
        raise UserError(f'{height}x{width} pixels give {sum(proposals)} proposals, not {wanted}: name a larger --shape')
    params = parameter_count(model)
    names = [name for name, _ in model.named_children() if name != 'roi_head']
    if wanted:
        names += [f'roi_head.{name}' for name, _ in model.roi_head.named_children()]
    parts = {name: dict(params=params[name], macs=int(macs[name])) for name in names if params[name]}
    if rest := int(macs['']) - sum(part['macs'] for part in parts.values()):
        # upstream calls some parts other than by their forward, where the tracer misses what they themselves do, such
        # as the interpolations of a decode head
        parts.setdefault('decode_head' if 'decode_head' in names else 'rest', dict(params=0, macs=0))['macs'] += rest
    uncounted = {op: n for op, n in analyzer.unsupported_ops().items() if op.split('::')[-1] not in UNCOUNTED}
    return dict(params=params[''], macs=int(macs['']), parts=parts, uncounted=uncounted)


def _watch_proposals(model: nn.Module) -> list[int]:
    """A list that gets the number of proposals whenever the first box head of a detector is called."""
    proposals: list[int] = []
    head = model.roi_head.bbox_head
    if isinstance(head, nn.ModuleList):
        head = head[0]
    head.register_forward_pre_hook(lambda module, inputs: proposals.append(int(inputs[0].shape[0])))
    return proposals


def _first_masks(forward: Callable[[torch.Tensor], torch.Tensor], features: torch.Tensor) -> torch.Tensor:
    """The masks of 100 boxes, repeated for all boxes: mmdet's cascades trace their mask heads on all proposals."""
    masks = forward(features[:100])
    return masks.repeat(math.ceil(len(features) / len(masks)), 1, 1, 1)[: len(features)]


def _analyzer(model: nn.Module, image: torch.Tensor) -> FlopAnalyzer:
    """mmengine's counter with the rules that it lacks."""
    analyzer = FlopAnalyzer(model, image)
    analyzer.set_op_handle('aten::batch_norm', lambda inputs, outputs: 0)  # it merges into its convolution
    analyzer.set_op_handle('aten::rms_norm', lambda inputs, outputs: 3 * math.prod(get_shape(inputs[0])))
    analyzer.set_op_handle('aten::scaled_dot_product_attention', _attention_macs)
    analyzer.set_op_handle('aten::baddbmm', _baddbmm_macs)
    analyzer.set_op_handle(
        'mambaout::selective_scan',
        lambda inputs, outputs: selective_scan.operations(get_shape(inputs[0]), get_shape(inputs[2])),
    )
    return analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings('none')


def _attention_macs(inputs: Sequence[torch.Value], outputs: Sequence[torch.Value]) -> int:
    """MACs of both products of softmax attention; as in the paper's Eq. 6, a causal mask does not reduce them."""
    queries, keys, values = (value.type().sizes() for value in inputs[:3])  # (..., tokens, width)
    return math.prod(queries[:-1]) * keys[-2] * (keys[-1] + values[-1])


def _baddbmm_macs(inputs: Sequence[torch.Value], outputs: Sequence[torch.Value]) -> int:
    """MACs of a sum and a batch of matrix products, as in attention with a mask."""
    return math.prod(get_shape(inputs[1])) * get_shape(inputs[2])[-1]
