#!/usr/bin/env python
"""Compare models: one table, one figure and all figures as JSON, for any configs of mmdet or mmseg.

    python tools/compare.py OUT configs/mask_rcnn_mambaout_tiny.py configs/vmamba/mask_rcnn_vmamba_tiny.py
    python tools/compare.py OUT CONFIG... --parts receptive --checkpoints a.pth - --images data/coco/val2017

Parts, all of which run by default:

    size        parameters and MACs at the size of the paper's tables
    step        time and peak memory of a whole training step and of inference, on a random batch; bytes that the
                backbone keeps for the backward pass. Models run in turn, and times are ratios to the first model's
    receptive   how far a gradient of the central cell reaches with random weights, and within how many pixels half and
                95 % of it lie, with random weights and with those of a checkpoint
    growth      time and peak memory of the backbone's inference over the sizes of square images, and the power of the
                number of pixels with which they grow: 1.0 is linear

It writes OUT.json and OUT.md anew after each figure, and OUT.png at the end. A run into the same OUT with the same
configs keeps the parts that it does not measure again. A model that fails, or does not fit in memory, has a cell that
says so. Weights are random and drop path is off; nothing is downloaded. docs/comparison.md explains all columns.

It needs a checkout of the repository: an installed package has no benchmarks.
"""

from __future__ import annotations

import argparse
import doctor  # noqa: F401  (says what to type if an import below fails)
import sys
from pathlib import Path

import torch

from backbones.errors import UserError
from mmengine_plugin.cli.arguments import positive
from mmengine_plugin.cli.error_messages import run

ROOT = Path(__file__).resolve().parents[1]
PARTS = ['size', 'step', 'receptive', 'growth']


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='path of the results, without an ending')
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='config files; times are compared with the first')
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=PARTS, help='(default: all)')
    parser.add_argument('--shape', metavar='BxHxW', help="step: images, height and width (default: the benchmark's)")
    parser.add_argument(
        '--rounds', type=positive, default=10 if torch.cuda.is_available() else 2, help='how often each model runs'
    )
    parser.add_argument('--stride', type=positive, default=16, help='receptive: stride of the map (default: 16)')
    parser.add_argument(
        '--field-size', type=positive, default=1152, help='receptive: height and width of the images (default: 1152)'
    )
    parser.add_argument('--images', type=Path, metavar='DIR', help='receptive: folder of real images (default: noise)')
    parser.add_argument('--checkpoints', nargs='+', metavar='FILE', help="receptive: one for each config, or '-'")
    parser.add_argument(
        '--sizes', type=positive, nargs='+', default=[512, 1024, 2048], help='growth: heights (default: 512 1024 2048)'
    )
    parser.add_argument(
        '--scores', nargs='+', metavar='FILE', help="what tools/test.py --json has written, one for each config, or '-'"
    )
    args = parser.parse_args()
    if not (ROOT / 'benchmarks').is_dir():
        raise UserError(f'benchmarks run from a checkout of the repository, and {ROOT} is an installed package')
    sys.path.insert(0, str(ROOT))  # Python has added tools/ alone, and `benchmarks` is never installed
    from benchmarks.comparison import compare
    from benchmarks.comparison_checks import check
    from benchmarks.comparison_report import failures, plot, tables, write_report

    configs, checkpoints, settings, results = check(args)
    compare(configs, checkpoints, args.parts, settings, results, lambda found: write_report(found, args.out))
    write_report(results, args.out)
    plot(results['models'], args.out.with_name(f'{args.out.name}.png'))
    print(tables(results))
    if failed := failures(results, args.parts):
        raise UserError(f'not all could be measured: {"; ".join(failed)}')


if __name__ == '__main__':
    run(main)
