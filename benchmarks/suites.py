"""The suites by name, and a run of several of them."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from pathlib import Path

import torch

from backbones.errors import UserError

from .backbone import DROP_PATH_SHAPES, SHAPES, SWEEP, measure_backbone, measure_drop_path
from .classifier_loading import measure_classifier_loading
from .data_loading import measure_data_loading
from .evaluation import measure_evaluation
from .kept import measure_kept
from .measuring import CUDA
from .programs import measure_test_program
from .report import plot, tables, write_report
from .scan import measure_scan
from .whole_models import SHAPES as WHOLE_SHAPES
from .whole_models import measure_whole_models

# How often each candidate runs, by suite. On a GPU, compiling takes the time; on a CPU, runs take seconds each.
ROUNDS = dict(kernels=20, scan=20, backbone=20, detection=20, segmentation=10, evaluation=3, input=5)
if not CUDA:
    ROUNDS |= dict(scan=2, backbone=5, detection=3, segmentation=3)


def run_suites(
    suites: list[str], archs: list[str], shapes: list[str] | None, rounds: int | None, sweep: bool, out: Path
) -> None:
    """Run suites, and report them as JSON, as tables and as a plot.

    Args:
        suites: ``'kernels'``, ``'scan'``, ``'backbone'``, ``'detection'``, ``'segmentation'``, ``'evaluation'``,
            ``'input'``, ``'compiled'``, ``'kept'``.
        archs: Sizes of MambaOut, for the suites of backbones and of whole models.
        shapes: Batches for the same suites, as ``'<images>x<height>x<width>'``; each has its own by default.
        rounds: How often each candidate runs; ``None`` for the number of each suite in ``ROUNDS``.
        sweep: Whether the backbone is measured at more sizes, for the plot.
        out: Path of the results, without an ending.

    Raises:
        UserError: If a suite failed. The others are measured and reported.
    """
    torch.manual_seed(0)
    rows, failed = [], []
    for suite in suites:
        try:
            for row in measure_suite(suite, archs, shapes, rounds or ROUNDS.get(suite, 1), sweep):
                rows.append(row)
                write_report(rows, out)  # after each row, so that an interrupted run loses none
        except UserError as error:
            failed.append(f'{suite}: {error}')
        except Exception as error:  # such as too little memory: the other suites are measured all the same
            traceback.print_exc()
            failed.append(f'{suite}: {type(error).__name__}, see above')
    if backbones := [
        row for row in rows if row['suite'].startswith('backbone') and row['what'] in ('inference', 'step')
    ]:
        plot(backbones, out.with_name(f'{out.name}.png'))
    print(tables(rows))
    if failed:
        raise UserError('; '.join(failed))


def measure_suite(suite: str, archs: list[str], shapes: list[str] | None, rounds: int, sweep: bool) -> Iterator[dict]:
    """Measure one suite; yields rows of the report as soon as they are known."""
    if suite == 'kernels':
        from .kernels import measure_kernels  # Triton is installed only where CUDA may be

        yield from measure_kernels(rounds)
    elif suite == 'compiled':
        from .compiled_kernels import measure_compiled_kernels

        yield from measure_compiled_kernels()
    elif suite == 'kept':
        yield from measure_kept()
    elif suite == 'scan':
        yield from measure_scan(rounds)
    elif suite == 'evaluation':
        yield from measure_evaluation(rounds)
        yield from measure_test_program(rounds)
    elif suite == 'input':
        yield from measure_classifier_loading(rounds)
        yield from measure_data_loading(rounds)
    elif suite == 'backbone':
        several = DROP_PATH_SHAPES if shapes is None else [shape for shape in shapes if not shape.startswith('1x')]
        shapes = shapes or SHAPES
        if sweep:
            shapes = [*shapes, *(shape for shape in SWEEP if shape not in shapes)]
        for arch in archs:
            yield from measure_backbone(arch, shapes, rounds)
            if not arch.endswith('_rw'):  # timm's own sizes have no recipe, and so no drop path rate
                yield from measure_drop_path(arch, several, rounds)
    else:
        for arch in archs:
            yield from measure_whole_models(suite, arch, shapes or WHOLE_SHAPES[suite], rounds)
