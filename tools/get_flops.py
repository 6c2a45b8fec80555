#!/usr/bin/env python
"""Count parameters and multiply-accumulates (MACs), in total and per part, in the convention of the paper's tables.

    python tools/get_flops.py configs/mask_rcnn_mambaout_tiny.py
    python tools/get_flops.py configs/imagenet_mambaout.py --cfg-options model.arch=base

A real forward pass on random weights is traced: 1 for a multiply-accumulate, 5 for a value under a LayerNorm, 4 for an
interpolated one, 9 for a state of a selective scan at a position, as VMamba's authors count, 0 for a batch norm, which
merges into its convolution. Mask R-CNN's box head sees as many proposals as the config asks for, 1000 in the recipe,
its mask head 100. UperNet's auxiliary head has parameters but, as when testing, no MACs.
"""

from __future__ import annotations

import copy
import doctor  # noqa: F401  (says what to type if an import below fails)
import math
import warnings
from collections.abc import Sequence
from functools import partial

import torch
from mmengine.analysis import FlopAnalyzer, parameter_count
from mmengine.analysis.jit_handles import get_shape
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement

from backbones.errors import UserError
from backbones.ops import selective_scan
from mmengine_plugin import launch
from mmengine_plugin.files import write_json

SHAPES = dict(mmdet=(800, 1280), mmseg=(512, 2048))  # of the paper's tables, by the config's default_scope
# What the convention leaves out: elementwise operators, reductions, pooling, sorting, those on boxes, and the weights
# by which positions are interpolated, which no image changes.
UNCOUNTED = set(
    'PythonOp.NMSop PythonOp.RoIAlignFunction _shape_as_tensor _upsample_bicubic2d_aa add add_ cos div exp eye '
    'feature_dropout fill_ flip gelu im2col linspace log log2 lt max_pool2d mean meshgrid mul ne neg new_ones '
    'ones_like pad pow repeat rsub sigmoid silu sin softmax sort sqrt sub sum topk unflatten'.split()
)


def attention(inputs: Sequence[torch._C.Value], outputs: Sequence[torch._C.Value]) -> int:
    """MACs of both products of softmax attention; a causal mask, as in the paper's Eq. 6, makes them no fewer."""
    queries, keys, values = (value.type().sizes() for value in inputs[:3])  # (..., tokens, width)
    return math.prod(queries[:-1]) * keys[-2] * (keys[-1] + values[-1])


def count(cfg: Config, height: int, width: int) -> dict:
    """Figures of a config's model for one image.

    Args:
        cfg: A config of mmdet, mmseg, or of a model that maps images to anything.
        height, width: The image's, in pixels.

    Returns:
        ``params`` and ``macs``; ``parts``, the same for each part; ``uncounted``, how often which operator was left
        out although it may multiply and accumulate.

    Raises:
        UserError: If the image is too small for the config's number of proposals.
    """
    init_default_scope(cfg.default_scope)
    cfg = copy.deepcopy(cfg)
    wanted = cfg.model.get('test_cfg', {}).get('rpn', {}).get('max_per_img')
    if wanted:
        cfg.model.test_cfg.rpn.nms.iou_threshold = 1.0  # random boxes overlap: suppress none, so that enough remain
    model = MODELS.build(cfg.model).eval()
    seen = []
    if wanted:
        first = model.roi_head.bbox_head
        first = first[0] if isinstance(first, torch.nn.ModuleList) else first
        first.register_forward_pre_hook(lambda module, inputs: seen.append(int(inputs[0].shape[0])))
    if cfg.default_scope in SHAPES:
        meta = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), (height, width))
        samples = [BaseDataElement(metainfo=dict(meta, scale_factor=(1.0, 1.0)))]
        model.forward = partial(model.forward, data_samples=samples, mode='tensor')
    analyzer = FlopAnalyzer(model, torch.rand(1, 3, height, width))
    analyzer.set_op_handle('aten::batch_norm', lambda inputs, outputs: 0)
    analyzer.set_op_handle('aten::scaled_dot_product_attention', attention)
    analyzer.set_op_handle(
        'mambaout::selective_scan',
        lambda inputs, outputs: selective_scan.operations(get_shape(inputs[0]), get_shape(inputs[2])),
    )
    analyzer.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings('none')
    with torch.no_grad():
        macs = analyzer.by_module()
    if wanted and set(seen) != {wanted}:
        raise UserError(f'{height}x{width} pixels give {sum(seen)} proposals, not {wanted}: name a larger --shape')
    params = parameter_count(model)
    names = [name for name, _ in model.named_children() if name != 'roi_head']
    names += [f'roi_head.{name}' for name, _ in model.roi_head.named_children()] if wanted else []
    parts = {name: dict(params=params[name], macs=int(macs[name])) for name in names if params[name]}
    if rest := int(macs['']) - sum(part['macs'] for part in parts.values()):
        # mmseg calls its head's forward past the tracer: what the head does itself, its interpolations
        parts.setdefault('decode_head', dict(params=0, macs=0))['macs'] += rest
    uncounted = {op: n for op, n in analyzer.unsupported_ops().items() if op.split('::')[-1] not in UNCOUNTED}
    return dict(params=params[''], macs=int(macs['']), parts=parts, uncounted=uncounted)


def main() -> None:
    parser = launch.config_parser(__doc__)
    parser.add_argument(
        '--shape', type=launch.positive, nargs=2, metavar=('H', 'W'), help="of the image (default: the paper's)"
    )
    parser.add_argument('--json', help='write the figures to this file')
    args = parser.parse_args()
    warnings.filterwarnings('ignore', module=r'mm(det|seg)\.')  # of what they will deprecate, when a model is built
    cfg = launch.load_config(args.config, args.cfg_options)
    height, width = args.shape or SHAPES.get(cfg.default_scope, (224, 224))
    figures = dict(config=args.config, shape=[height, width], **count(cfg, height, width))
    print(f'{args.config}, one image of {height}x{width}\n\n{"part":22}{"params (M)":>12}{"MACs (G)":>12}')
    for name, part in [*figures['parts'].items(), ('total', figures)]:
        print(f'{name:22}{part["params"] / 1e6:12.2f}{part["macs"] / 1e9:12.2f}')
    if figures['uncounted']:
        listed = ', '.join(f'{op} ({n} times)' for op, n in figures['uncounted'].items())
        print(f'\nWARNING: these operators are not counted, although they may multiply and accumulate: {listed}')
    if args.json:
        write_json(args.json, figures)


if __name__ == '__main__':
    launch.run(main)
