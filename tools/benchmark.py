#!/usr/bin/env python
"""Measure speed and memory of this project and of other implementations, side by side.

    python tools/benchmark.py benchmarks/results/NAME                   all that this machine can tell, of MambaOut tiny
    python tools/benchmark.py OUT --suites backbone --arch base --shapes 2x800x1280

Suites, in the order in which they run by default:

    kernels         each Triton kernel of the gated CNN block beside cuDNN's convolution with a compiled gate (CUDA)
    scan            the selective scan over a detector's largest map; on CUDA also mamba_ssm's, if it is installed
    detection       training step and inference of Mask R-CNN on random images; other backbones have the same heads
    segmentation    the same of UperNet
    backbone        forward pass, training step, and training steps with drop path, beside timm's backbone
    evaluation      COCO's scores by two libraries, and tools/test.py beside mmdet's own test program (CPU)
    input           making a classifier's batches, beside timm; the transforms of the images in data/; only if named
    compiled        registers, spills and instructions of all Triton kernels, compiled for A100 and H100; needs no
                    GPU; only if named
    kept            what a training step of Mask R-CNN (tiny, base) and of UperNet (tiny) keeps for its backward pass,
                    by setting, with one image of the recipe's size; only if named

Without --suites, --arch, --shapes and --rounds, this takes about 8 minutes on an H100, most of it for torch.compile,
and about 20 minutes on two CPU cores. Results are written after each row, so a run that is cut off keeps what it has.

In each round every candidate runs once, in turn. The report has the median of the rounds' ratios to the first
candidate, with their range, because absolute times say little on a machine that others share.

It writes OUT.json, with all times and how they were measured, OUT.md, tables, and OUT.png, ratios over sizes. It also
measures the rates of matrix products and of copies. `roofline` is the least time that the operators of an eager model
would need at these rates, divided by the time that the candidate took. `share of the copy rate` of a kernel is the
time that a copy of the bytes that it must move would take, divided by the kernel's time. `GPU busy` is the share of
the time in which the GPU computes; in the rest, it waits for the host. The second table says where the host's time
goes. In the JSON, `profile` names the operators that take most of a step.

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
from mmengine_plugin.cli.arguments import batch_shape
from mmengine_plugin.cli.error_messages import run

ROOT = Path(__file__).resolve().parents[1]
SUITES = ['kernels', 'scan', 'detection', 'segmentation', 'backbone', 'evaluation', 'input', 'compiled', 'kept']
DEFAULT_SUITES = SUITES[:5] if torch.cuda.is_available() else SUITES[1:6]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='path of the results, without an ending')
    parser.add_argument(
        '--suites', nargs='+', choices=SUITES, default=DEFAULT_SUITES, help=f'(default: {" ".join(DEFAULT_SUITES)})'
    )
    parser.add_argument('--arch', nargs='+', choices=ARCHS, default=['tiny'], help='sizes of MambaOut (default: tiny)')
    parser.add_argument('--shapes', nargs='+', metavar='BxHxW', help='images, height and width (default: by suite)')
    parser.add_argument('--rounds', type=int, help='how often each candidate runs (default: by suite)')
    parser.add_argument('--sweep', action='store_true', help='measure the backbone at more sizes, for the plot')
    args = parser.parse_args()
    if 'kernels' in args.suites and not torch.cuda.is_available():
        raise UserError('--suites kernels: this suite needs CUDA, and this machine has none')
    if args.rounds is not None and args.rounds < 1:
        raise UserError(f'--rounds {args.rounds}: write 1 or more')
    no_recipe = [arch for arch in args.arch if arch.endswith('_rw')]
    if no_recipe and {'detection', 'segmentation'} & set(args.suites):
        raise UserError(
            f"--arch {no_recipe[0]}: timm's own sizes have no recipes for whole models; choose --suites backbone"
        )
    for shape in args.shapes or ():
        batch_shape(shape, '--shapes', 'segmentation' in args.suites)
    if not (ROOT / 'benchmarks').is_dir():
        raise UserError(f'benchmarks run from a checkout of the repository, and {ROOT} is an installed package')
    sys.path.insert(0, str(ROOT))  # Python has added tools/ alone, and `benchmarks` is never installed
    from benchmarks.suites import run_suites

    run_suites(args.suites, args.arch, args.shapes, args.rounds, args.sweep, args.out)


if __name__ == '__main__':
    run(main)
