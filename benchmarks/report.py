"""What is measured as JSON, as a table and as a plot."""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

from mmengine_plugin.atomic_files import atomic_file, write_json

from .conditions import conditions
from .measuring import CUDA, DTYPE
from .roofline import rates

plt.switch_backend('agg')
COLUMNS = ['what', 'size', 'candidate', 'time, ratio to the first', 'low to high']
FIGURES = {  # of a row, if it has them: the title of their column
    'images_per_second': 'images/s',
    'peak_gib': 'peak beyond weights (GiB)',
    'kept_gib': 'kept for backward (GiB)',
    'roofline': 'roofline',
}


def write_report(rows: list[dict], out: Path) -> None:
    """Write the rows to ``<out>.json``, with all that is needed to measure them again, and to ``<out>.md``."""
    measured = conditions('triton', 'mmpretrain')
    if CUDA:
        measured['device'] = torch.cuda.get_device_name()
    products, copied = rates()
    content = dict(
        **measured,
        threads=torch.get_num_threads(),
        dtype=str(DTYPE).removeprefix('torch.'),
        matrix_products_per_second=products,
        copied_bytes_per_second=copied,
        rows=rows,
    )
    write_json(f'{out}.json', content)
    with atomic_file(f'{out}.md') as temporary:
        temporary.write_text(table(rows))


def table(rows: list[dict]) -> str:
    """The rows as a table in Markdown."""
    columns = [*COLUMNS, *FIGURES.values()]
    lines = [f'| {" | ".join(columns)} |', '|---' * len(columns) + '|']
    for row in rows:
        cells = [f'{row["suite"]}, {row["what"]}', row['shape'], row['candidate'], f'{row["ratio"]:.3f}']
        cells.append(f'{row["low"]:.3f} to {row["high"]:.3f}')
        cells += [f'{row[figure]:.2f}' if figure in row else '' for figure in FIGURES]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def plot(rows: list[dict], path: Path) -> None:
    """Plot the ratios of the backbones over the number of pixels in a batch.

    Args:
        rows: Rows of backbones alone.
        path: The picture to write.
    """
    suites = list(dict.fromkeys(row['suite'] for row in rows))
    figure, axes = plt.subplots(
        len(suites), 2, figsize=(10, 4 * len(suites)), layout='constrained', sharey=True, squeeze=False
    )
    for (suite, what), axis in zip(itertools.product(suites, ('inference', 'step')), axes.flat, strict=True):
        shown = [row for row in rows if (row['suite'], row['what']) == (suite, what)]
        for candidate in dict.fromkeys(row['candidate'] for row in shown):
            points = sorted(
                (np.prod([int(n) for n in row['shape'].split('x')]) / 1e6, row['ratio'], row['low'], row['high'])
                for row in shown
                if row['candidate'] == candidate
            )
            pixels, ratio, low, high = zip(*points, strict=True)
            axis.plot(pixels, ratio, 'o-', label=candidate)
            axis.fill_between(pixels, low, high, alpha=0.15)
        axis.set(title=f'{suite}, {what}', xlabel='megapixels in the batch', xscale='log', ylim=(0, None))
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel('time, ratio to the first candidate')
        axis.legend()
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120)
