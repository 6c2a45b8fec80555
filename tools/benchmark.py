#!/usr/bin/env python
"""Measure speed and memory of this project and of other implementations, side by side in one process.

    python tools/benchmark.py benchmarks/results/NAME --arch tiny base --sweep      all suites but input
    python tools/benchmark.py OUT --suites backbone --arch base --shapes 2x800x1280

Suites: `backbone` (the forward pass, and the training step), `detection` and `segmentation` (the whole training step
and inference of Mask R-CNN and UperNet, on random images), `scan` (the selective scan over a detector's largest map),
`evaluation` (COCO's scores by two libraries), `input` (the transforms of the training images in `data/`). Other
backbones are measured with the same heads. In each round every candidate runs once, in turn. The report has the
median of the rounds' ratios to the first candidate, with their range, because absolute times say little on a
machine that others share.

It writes OUT.json, with all times and how they were measured, OUT.md, a table, and OUT.png, ratios over sizes. It also
measures the rates of matrix products and of copies. `roofline` is the least time that any candidate's operators would
need at these rates, divided by the time that the candidate took. In the JSON, `profile` names what takes most of a
step, and `busy`, on CUDA, is the share of the time in which the GPU computes.

It needs a checkout of the repository: an installed package has no benchmarks.
"""

from __future__ import annotations

import argparse
import doctor  # noqa: F401  (says what to type if an import below fails)
import sys
from pathlib import Path

import torch

from backbones.errors import UserError
from backbones.mambaout import ARCHS
from mmengine_plugin.cli.error_messages import run

ROOT = Path(__file__).resolve().parents[1]
SUITES = ['backbone', 'detection', 'segmentation', 'scan', 'evaluation', 'input']
ROUNDS = 20 if torch.cuda.is_available() else 5


def check_shape(shape: str, suites: list[str]) -> None:
    """Raise a :class:`UserError` if a batch is not written as BxHxW, or is too small for a suite."""
    parts = shape.split('x')
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise UserError(f'--shapes {shape}: write three numbers, such as 2x800x1280')
    if parts[0] == '1' and 'segmentation' in suites:
        raise UserError(f'--shapes {shape}: UperNet trains on 2 images or more')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='path of the results, without an ending')
    parser.add_argument(
        '--suites', nargs='+', choices=SUITES, default=SUITES[:-1], help='(default: all but input, which needs data/)'
    )
    parser.add_argument('--arch', nargs='+', choices=ARCHS, default=['tiny'], help='sizes of MambaOut (default: tiny)')
    parser.add_argument('--shapes', nargs='+', metavar='BxHxW', help='images, height and width (default: by suite)')
    parser.add_argument('--rounds', type=int, default=ROUNDS, help='(default: 20 on CUDA, else 5)')
    parser.add_argument('--sweep', action='store_true', help='measure the backbone at more sizes, for the plot')
    args = parser.parse_args()
    for shape in args.shapes or ():
        check_shape(shape, args.suites)
    if not (ROOT / 'benchmarks').is_dir():
        raise UserError(f'benchmarks run from a checkout of the repository, and {ROOT} is an installed package')
    sys.path.insert(0, str(ROOT))  # Python has added tools/ alone, and `benchmarks` is never installed
    from benchmarks.suites import run_suites

    run_suites(args.suites, args.arch, args.shapes, args.rounds, args.sweep, args.out)


if __name__ == '__main__':
    run(main)
