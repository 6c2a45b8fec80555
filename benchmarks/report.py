"""What is measured as JSON, as a table and as a plot."""

from __future__ import annotations

import itertools
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from mmengine_plugin.atomic_files import atomic_file, write_json

from .conditions import device_conditions, summary
from .roofline import rates

plt.switch_backend('agg')
COLUMNS = ['what', 'size', 'candidate', 'time, ratio to the first', 'low to high']
FIGURES = {  # of a row, if it has them: the title of their column
    'images_per_second': 'images/s',
    'peak_gib': 'peak beyond weights (GiB)',
    'kept_gib': 'kept for backward (GiB)',
    'roofline': 'roofline',
    'bandwidth': 'share of the copy rate',
    'busy': 'GPU busy',
}


def write_report(rows: list[dict], out: Path) -> None:
    """Write the rows to ``<out>.json``, with all that is needed to measure them again, and to ``<out>.md``."""
    content = device_conditions('triton', 'mmpretrain', 'mamba_ssm')
    if any('seconds' in row for row in rows):
        products, copied = rates()
        content |= dict(matrix_products_per_second=products, copied_bytes_per_second=copied)
    write_json(f'{out}.json', content | dict(rows=rows))
    with atomic_file(f'{out}.md') as temporary:
        temporary.write_text(f'{summary(content)}\n\n{tables(rows)}')


def tables(rows: list[dict]) -> str:
    """All rows as tables in Markdown: times, host times and compiled kernels, each if there are any."""
    measured = [row for row in rows if 'seconds' in row]
    found = [f'Times and memory\n\n{time_table(measured)}'] if measured else []
    if any('host' in row for row in measured):
        found.append(f"The host's time\n\n{host_table(measured)}")
    if kernels := [row for row in rows if 'registers' in row]:
        found.append(f'Compiled kernels\n\n{kernel_table(kernels)}')
    if kept := [row for row in rows if 'backbone_gb' in row]:
        found.append(f'Kept for the backward pass (GB)\n\n{kept_table(kept)}')
    return '\n'.join(found)


def time_table(rows: list[dict]) -> str:
    """A line for each row, with the columns that any of the rows has."""
    figures = [figure for figure in FIGURES if any(figure in row for row in rows)]
    lines = []
    for row in rows:
        cells = [f'{row["suite"]}, {row["what"]}', row['shape'], row['candidate'], f'{row["ratio"]:.3f}']
        cells.append(f'{row["low"]:.3f} to {row["high"]:.3f}')
        cells += [f'{row[figure]:.3g}' if figure in row else '' for figure in figures]
        lines.append(cells)
    return markdown([*COLUMNS, *(FIGURES[figure] for figure in figures)], lines)


def host_table(rows: list[dict]) -> str:
    """The milliseconds of each part of a row's host times, and its share of the first part, the whole; from 1 % on."""
    lines = []
    for row in rows:
        for part, seconds in row.get('host', {}).items():
            share = seconds / next(iter(row['host'].values()))
            if share >= 0.01:
                cells = [f'{row["suite"]}, {row["what"]}', row['shape'], row['candidate'], part]
                lines.append([*cells, f'{1e3 * seconds:.1f}', f'{share:.0%}'])
    return markdown([*COLUMNS[:3], 'host time', 'ms', 'share'], lines)


def kernel_table(rows: list[dict]) -> str:
    """A line for each compiled kernel."""
    shown = [key for key in rows[0] if key != 'suite']
    return markdown(shown, [[str(row[key]) for key in shown] for row in rows])


def kept_table(rows: list[dict]) -> str:
    """A line for each setting, and a column for each model: what its backbone keeps; last, what the rest keeps."""
    models = list(dict.fromkeys((row['what'], row['shape']) for row in rows))
    cells = {(row['setting'], row['what']): f'{row["backbone_gb"]:.2f}' for row in rows}
    cells |= {('all else, with any of these', row['what']): f'{row["rest_gb"]:.2f}' for row in rows if 'rest_gb' in row}
    settings = dict.fromkeys(setting for setting, _ in cells)
    lines = [[setting, *(cells.get((setting, what), '') for what, _ in models)] for setting in settings]
    return markdown(['setting of the backbone', *(f'{what}, {shape}' for what, shape in models)], lines)


def markdown(titles: list[str], lines: list[list[str]]) -> str:
    """A table in Markdown."""
    return '\n'.join(f'| {" | ".join(cells)} |' for cells in (titles, ['---'] * len(titles), *lines)) + '\n'


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
