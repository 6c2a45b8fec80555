"""What :mod:`benchmarks.comparison` measures, as JSON, as a table and as a figure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from mmengine_plugin.atomic_files import atomic_file, write_json

from .conditions import summary
from .memory import OUT_OF_MEMORY
from .report import markdown

plt.switch_backend('agg')
SCORES = ['coco/bbox_mAP', 'coco/segm_mAP', 'mIoU']  # that the table shows; the JSON file has all
MOST_DIFFERENCES = 5  # between two heads that are named
STYLES = list(zip([*(f'C{number}' for number in range(10)), 'black', 'gold'], 'osPDv^<>X*ph', strict=True))


def write_report(results: dict, out: Path) -> None:
    """Write the results to ``<out>.json`` and ``<out>.md``."""
    write_json(f'{out}.json', results)
    with atomic_file(f'{out}.md') as temporary:
        temporary.write_text(tables(results))


def exponent(values: Mapping[int, float]) -> float | None:
    """Fit the power of the number of pixels with which a figure grows.

    Args:
        values: The figure by the height and width of square images.

    Returns:
        The slope of the least squares line through the logarithms: 1 if the figure is proportional to the number of
        pixels, 2 if it is proportional to the square of that number. ``None`` for fewer than two sizes.
    """
    if len(values) < 2:
        return None
    pixels = [size**2 for size in values]
    return float(np.polyfit(np.log(pixels), np.log(list(values.values())), 1)[0])


def growth(found: Mapping[str, dict], figure: str) -> dict[int, float]:
    """A figure by the size of the images: ``'seconds'`` in the median, or ``'peak_gib'``."""
    rows = {int(size): row for size, row in found.items() if size.isdecimal() and row.get(figure)}
    return {
        size: statistics.median(rows[size]['seconds']) if figure == 'seconds' else rows[size][figure] for size in rows
    }


def _ratio(row: Mapping) -> str:
    return f'{row["ratio"]:.2f} ({row["low"]:.2f} to {row["high"]:.2f})'


def _power(found: Mapping, figure: str) -> str:
    values = growth(found, figure)
    power = exponent(values)
    if power is None:
        return ''
    failed = any(size.isdecimal() and int(size) > max(values) for size in found['errors'])
    return f'{power:.2f} (up to {max(values)})' if failed else f'{power:.2f}'


def _reach(found: Mapping) -> str:
    if found['whole_image']:
        return 'whole image'
    text = ' / '.join(str(found['reach'][side]) for side in ('left', 'right', 'up', 'down'))
    return text if found['precision'] == 'float64' else f'≥ {text}'


def _macs(found: Mapping) -> str:
    return f'{"≥ " if found["uncounted"] else ""}{found["macs"] / 1e9:.1f}'


# title; part; names of the errors that leave a cell without a figure; the figure
COLUMNS: list[tuple[str, str, tuple[str, ...], Callable[[Mapping], str]]] = [
    ('params (M)', 'size', ('size',), lambda found: f'{found["params"] / 1e6:.1f}'),
    ('backbone', 'size', ('size',), lambda found: f'{found["parts"]["backbone"]["params"] / 1e6:.1f}'),
    ('MACs (G)', 'size', ('size',), _macs),
    ('step, time', 'step', ('step', 'build'), lambda found: _ratio(found['step'])),
    ('step, peak (GiB)', 'step', ('step', 'build'), lambda found: f'{found["step"]["peak_gib"]:.2f}'),
    ('inference, time', 'step', ('inference', 'build'), lambda found: _ratio(found['inference'])),
    ('inference, peak (GiB)', 'step', ('inference', 'build'), lambda found: f'{found["inference"]["peak_gib"]:.2f}'),
    ('kept for backward (GiB)', 'step', ('kept', 'build'), lambda found: f'{found["kept_gib"]:.2f}'),
    ('reaches (px)', 'receptive', ('random',), _reach),
    ('50 % / 95 % within (px), random', 'receptive', ('random',), lambda found: _radii(found['random'])),
    ('50 % / 95 % within (px), trained', 'receptive', ('trained',), lambda found: _radii(found['trained'])),
    ('time grows with pixels to the power', 'growth', ('growth',), lambda found: _power(found, 'seconds')),
    ('memory grows with pixels to the power', 'growth', ('growth',), lambda found: _power(found, 'peak_gib')),
    ('scores', 'scores', (), lambda found: _scores(found)),
]


def _radii(field: Mapping) -> str:
    return f'{field["half"]} / {field["most"]}'


def _scores(found: Mapping[str, float]) -> str:
    shown = [name for name in SCORES if name in found] or list(found)[:1]
    return ', '.join(f'{name.split("/")[-1]} {found[name]:g}' for name in shown)


def tables(results: dict) -> str:
    """All results in Markdown: the main table, growth over sizes, what failed, and how each part was measured."""
    models = results['models']
    lines = [[f'`{name}`', *(_cell(model, column) for column in COLUMNS)] for name, model in models.items()]
    used = [i for i in range(len(COLUMNS) + 1) if any(line[i] for line in lines)]
    titles = ['model', *(column[0] for column in COLUMNS)]
    parts = [markdown([titles[i] for i in used], [[line[i] for i in used] for line in lines])]
    if any('growth' in model for model in models.values()):
        parts.append(_growth_table(models))
    if failed := failures(results, results['parts'], memory=True):
        parts.append('Not measured:\n\n' + ''.join(f'- {line}\n' for line in failed))
    return '\n'.join([*parts, *(f'- {line}' for line in _notes(results))]) + '\n'


def failures(results: dict, parts: Iterable[str], memory: bool = False) -> list[str]:
    """What could not be measured of some parts, and why.

    Args:
        results: The results.
        parts: Names of parts.
        memory: Whether to name what did not fit in memory, too, which is a result rather than a fault.
    """
    return [
        f'{name}, {what}: {reason}'
        for name, model in results['models'].items()
        for part in parts
        for what, reason in model.get(part, {}).get('errors', {}).items()
        if memory or reason != OUT_OF_MEMORY
    ]


def _cell(model: Mapping, column: tuple) -> str:
    _, part, whats, text = column
    found = model.get(part) or {}
    for what in whats:
        if reason := found.get('errors', {}).get(what):
            return reason if reason == OUT_OF_MEMORY else 'failed'
    try:
        return text(found)
    except KeyError:  # not measured
        return ''


def _growth_table(models: Mapping[str, dict]) -> str:
    found = {name: model.get('growth', {}) for name, model in models.items()}
    sizes = sorted({int(key) for row in found.values() for key in [*row, *row.get('errors', {})] if key.isdecimal()})
    lines = []
    for name, row in found.items():
        seconds, peaks = growth(row, 'seconds'), growth(row, 'peak_gib')
        errors = row.get('errors', {})
        cells = []
        for size in sizes:
            peak = f' ({peaks[size]:.2f} GiB)' if size in peaks else ''
            failed = OUT_OF_MEMORY if errors.get(str(size)) == OUT_OF_MEMORY else 'failed'
            missing = failed if str(size) in errors else ''
            cells.append(f'{seconds[size]:.3g} s{peak}' if size in seconds else missing)
        lines.append([f'`{name}`', *cells])
    return markdown(['inference of the backbone', *(f'{size}x{size}' for size in sizes)], lines)


def _notes(results: dict) -> Iterator[str]:
    """How the parts were measured, and by which command."""
    how = results['parts']
    if 'step' in how:
        yield f'step: a batch of {"x".join(map(str, how["step"]["shape"]))}, {how["step"]["rounds"]} rounds'
        for what in ('step', 'inference'):
            rows = {name: model['step'].get(what, {}) for name, model in results['models'].items()}
            timed = {name: row['seconds'] for name, row in rows.items() if 'seconds' in row}
            if timed:
                name, seconds = next(iter(timed.items()))
                yield f'{what}: times are ratios to those of `{name}`, {statistics.median(seconds):.3g} s'
    if 'receptive' in how:
        at, images = how['receptive'], how['receptive']['images']
        source = f'{len(images)} images of {Path(images[0]).parent}' if images else 'noise'
        yield f'receptive field: map at stride {at["stride"]}, {source} of {at["field_size"]}x{at["field_size"]}'
    if 'growth' in how:
        yield f'growth: one image, {how["growth"]["rounds"]} rounds'
    for name, differences in results.get('heads', {}).items():
        more = len(differences) - MOST_DIFFERENCES
        end = f'; and {more} more' if more > 0 else ''
        yield f'`{name}` differs by more than its backbone: {"; ".join(differences[:MOST_DIFFERENCES])}{end}'
    commands: dict[str, list[str]] = {}
    for part in how:
        commands.setdefault(summary(how[part]), []).append(part)
    for command, parts in commands.items():
        yield f'{", ".join(parts)}: {command}'


def plot(models: Mapping[str, dict], path: Path) -> None:
    """Plot time against memory of training steps, growth over sizes, and how the gradient spreads around a cell."""
    panels = dict(step=_plot_step, growth=_plot_growth, receptive=_plot_fields)
    shown = [part for part in panels if any(len(model.get(part, {})) > 1 for model in models.values())]
    if not shown:
        return
    figure, axes = plt.subplots(1, len(shown), figsize=(5.5 * len(shown), 5.5), layout='constrained', squeeze=False)
    for part, axis in zip(shown, axes[0], strict=True):
        for number, (name, model) in enumerate(models.items()):
            color, marker = STYLES[number % len(STYLES)]
            style = dict(color=color, marker=marker, ms=5, lw=1)
            panels[part](axis, name, model.get(part, {}), style)
        axis.grid(alpha=0.3)
    by_name = {name: line for axis in axes[0] for line, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(by_name.values(), by_name, loc='outside lower center', ncols=4, fontsize='small')
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def _plot_step(axis: Axes, name: str, found: Mapping, style: dict) -> None:
    axis.set(title='training step', xlabel='time, ratio to the first', ylabel='peak memory (GiB)')
    if (row := found.get('step')) and {'ratio', 'peak_gib'} <= row.keys():
        spread = [[row['ratio'] - row['low']], [row['high'] - row['ratio']]]
        axis.errorbar(row['ratio'], row['peak_gib'], xerr=spread, label=name, **style)


def _plot_growth(axis: Axes, name: str, found: Mapping, style: dict) -> None:
    axis.set(title='inference of the backbone', xlabel='height and width', ylabel='seconds', xscale='log', yscale='log')
    if seconds := growth(found, 'seconds'):
        axis.plot(list(seconds), list(seconds.values()), label=name, **style)
        axis.set_xticks(list(seconds), map(str, seconds))
        axis.set_xticks([], minor=True)


def _plot_fields(axis: Axes, name: str, found: Mapping, style: dict) -> None:
    title = 'receptive field (dashed: random weights, solid: trained)'
    axis.set(title=title, xlabel='pixels from the cell', ylabel='share of the gradient within')
    for weights, line in dict(random='--', trained='-').items():
        if field := found.get(weights):
            values = field['shares']
            axis.plot(16 * np.arange(len(values)), values, line, label=name, markevery=8, **style)
