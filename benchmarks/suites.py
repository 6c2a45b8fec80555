"""The suites by name, and a run of several of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from .backbone import SHAPES, SWEEP, measure_backbone
from .data_loading import measure_data_loading
from .evaluation import measure_evaluation
from .report import plot, table, write_report
from .scan import measure_scan
from .whole_models import SHAPES as WHOLE_SHAPES
from .whole_models import measure_whole_models


def run_suites(
    suites: list[str], archs: list[str], shapes: list[str] | None, rounds: int, sweep: bool, out: Path
) -> None:
    """Run suites, and report them as JSON, as a table and as a plot.

    Args:
        suites: ``'backbone'``, ``'detection'``, ``'segmentation'``, ``'scan'``, ``'evaluation'``, ``'input'``.
        archs: Sizes of MambaOut, for the first three suites.
        shapes: Batches for the first three suites, as ``'<images>x<height>x<width>'``; each has its own by default.
        rounds: How often each candidate runs.
        sweep: Whether the backbone is measured at more sizes, for the plot.
        out: Path of the results, without an ending.
    """
    torch.manual_seed(0)
    rows = []
    for suite in suites:
        for row in measure_suite(suite, archs, shapes, rounds, sweep):
            rows.append(row)
            write_report(rows, out)  # after each row, so that an interrupted run loses none
    if backbones := [row for row in rows if row['suite'].startswith('backbone')]:
        plot(backbones, out.with_name(f'{out.name}.png'))
    print(table(rows))


def measure_suite(suite: str, archs: list[str], shapes: list[str] | None, rounds: int, sweep: bool) -> Iterator[dict]:
    """Measure one suite; yields rows of the report as soon as they are known."""
    if suite == 'scan':
        yield from measure_scan(rounds)
    elif suite == 'evaluation':
        yield from measure_evaluation(rounds)
    elif suite == 'input':
        yield from measure_data_loading(rounds)
    elif suite == 'backbone':
        shapes = shapes or SHAPES
        if sweep:
            shapes = [*shapes, *(shape for shape in SWEEP if shape not in shapes)]
        for arch in archs:
            yield from measure_backbone(arch, shapes, rounds)
    else:
        for arch in archs:
            yield from measure_whole_models(suite, arch, shapes or WHOLE_SHAPES[suite], rounds)
