#!/usr/bin/env python
"""Count parameters and multiply-accumulates (MACs), in total and per part, in the convention of the paper's tables.

    python tools/get_flops.py configs/mask_rcnn_mambaout_tiny.py
    python tools/get_flops.py configs/imagenet_mambaout_tiny.py
    python tools/get_flops.py configs/mask_rcnn_mambaout_tiny.py --memory

A forward pass with random weights is traced. A multiply-accumulate counts 1, a value in a LayerNorm 5, an interpolated
value 4, and each element of a selective scan's state 9 at each position, as VMamba's authors count. A batch norm counts
0, because it merges into its convolution. The box head of Mask R-CNN gets as many proposals as the config asks for,
1000 in the recipe; its mask head gets 100. UperNet's auxiliary head has parameters but no MACs, because inference does
not run it.

--memory also counts what a training step with one image keeps for its backward pass, in fp32 and without drop path: a
real step on this machine's CPU, with images of 800x1280 (mmdet), of the config's crop (mmseg) or of its input size.
"""

from __future__ import annotations

import doctor  # noqa: F401  (says what to type if an import below fails)
import warnings

from mmengine_plugin.atomic_files import write_json
from mmengine_plugin.cli.arguments import config_parser, positive
from mmengine_plugin.cli.configs import load_config
from mmengine_plugin.cli.error_messages import run
from mmengine_plugin.macs import SHAPES, count
from mmengine_plugin.memory import count_kept


def main() -> None:
    parser = config_parser(__doc__)
    parser.add_argument(
        '--shape',
        type=positive,
        nargs=2,
        metavar=('H', 'W'),
        help="size of the image (default: the paper's, and --memory's is that of the training)",
    )
    parser.add_argument('--memory', action='store_true', help='count what a training step keeps for its backward pass')
    parser.add_argument('--json', help='write the figures to this file')
    args = parser.parse_args()
    warnings.filterwarnings('ignore', module=r'mm(det|seg)\.')  # about what their own models will deprecate
    cfg = load_config(args.config, args.cfg_options)
    height, width = args.shape or SHAPES.get(cfg.default_scope, (224, 224))
    figures = dict(config=args.config, shape=[height, width], **count(cfg, height, width))
    print(f'{args.config}, one image of {height}x{width}\n\n{"part":22}{"params (M)":>12}{"MACs (G)":>12}')
    for name, part in [*figures['parts'].items(), ('total', figures)]:
        print(f'{name:22}{part["params"] / 1e6:12.2f}{part["macs"] / 1e9:12.2f}')
    if figures['uncounted']:
        listed = ', '.join(f'{op} ({n} times)' for op, n in figures['uncounted'].items())
        print(f'\nWARNING: these operators are not counted, although they may multiply and accumulate: {listed}')
    if args.memory:
        kept = count_kept(cfg, args.shape)
        figures |= kept
        print(
            '\nkept by a training step with one image of {}x{}, fp32\n\n{:30}{:>12}'.format(
                *kept['training_shape'], 'part', 'GB'
            )
        )
        for name, size in [*kept['kept_by_part'].items(), ('total', kept['kept_bytes'])]:
            print(f'{name:30}{size / 1e9:12.3f}')
    if args.json:
        write_json(args.json, figures)


if __name__ == '__main__':
    run(main)
