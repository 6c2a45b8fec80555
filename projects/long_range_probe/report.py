"""The results of the probe as JSON, as tables and as plots."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.conditions import conditions
from mmengine_plugin.atomic_files import atomic_file, write_json

from .measuring import extent
from .trainings import CORES, Training, count_backbone

plt.switch_backend('agg')
NAMES = dict(  # of the configs, and as they are shown
    mambaout='MambaOut',
    mambaout_ssm_rows='MambaOut + SSM, rows',
    mambaout_ssm='MambaOut + SSM, 4 orders',
    vmamba='VMamba',
    vim='Vim',
    local_vim='LocalVim',
    plain_mamba='PlainMamba',
    efficient_vmamba='EfficientVMamba',
    s4nd='S4ND-ConvNeXt',
    vit='ViT',
    vit_causal='ViT, causal',
)
SIDES = dict(left='cue to the left, read before', right='cue to the right, read after')
MARKERS = 'osPDv^<>*Xh'
COLORS = [*plt.cm.tab10.colors, 'black']


def write_report(trainings: Sequence[Training], data: Path, out: Path) -> None:
    """Write and print all results of trainings that are measured."""
    results: dict[str, dict] = {}
    fields: dict[str, list[np.ndarray]] = {}
    for training in trainings:
        name = training.name
        if name not in results:
            results[name], fields[name] = dict(name=NAMES[name], **count_backbone(training), runs=[]), []
        field = np.load(training.field)
        fields[name].append(field)
        results[name]['runs'].append(json.loads(training.record.read_text()) | dict(receptive_field=extent(field)))
    drawn = json.loads((data / 'mini.json').read_text())
    write_json(out / 'probe.json', dict(**conditions(), cores=CORES, data=drawn, models=results))
    with atomic_file(out / 'probe.md') as temporary:
        temporary.write_text(tables(results))
    plot_accuracy(results, out / 'probe_accuracy.png')
    cues = json.loads((data / 'cues.json').read_text())
    leftmost = min((stem for stem in cues if 'val' in stem), key=lambda stem: cues[stem]['cue'][0])
    strip = data / f'images/validation/{leftmost}.jpg'
    means = {name: np.mean(found, axis=0) for name, found in fields.items()}
    plot_fields(means, strip, out / 'probe_receptive_fields.png')
    print(tables(results))


def tables(results: dict[str, dict]) -> str:
    """Markdown: one table of sizes and receptive fields, and one of accuracies over distances for each side."""
    columns = ['model', 'params (k)', 'MACs (M)', 'gradient reaches left', 'right', 'half of it within', '95 % within']
    lines = [f'| {" | ".join(columns)} |', '| --- ' * len(columns) + '|']
    for model in results.values():
        fields = [run['receptive_field'] for run in model['runs']]
        cells = [model['name'], f'{model["params"] / 1e3:.0f}', f'{model["macs"] / 1e6:.0f}']
        cells += [spread([field[key] for field in fields]) for key in ('left', 'right', 'half', 'most')]
        lines.append(f'| {" | ".join(cells)} |')
    for side, title in SIDES.items():
        distances = list(next(iter(results.values()))['runs'][0]['accuracy'][side])
        lines += ['', f'| {title} | {" | ".join(distances)} |', '| --- ' * (len(distances) + 1) + '|']
        for model in results.values():
            cells = [spread([100 * run['accuracy'][side][d] for run in model['runs']]) for d in distances]
            lines.append(f'| {model["name"]} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


def spread(values: list[float]) -> str:
    """The least and the greatest value, rounded; one number if they are the same."""
    low, high = f'{min(values):.0f}', f'{max(values):.0f}'
    return low if low == high else f'{low} to {high}'


def plot_accuracy(results: dict[str, dict], path: Path) -> None:
    """Plot accuracy over distance: the mean of the seeds as a line, their range as a band."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout='constrained')
    for axis, (side, title) in zip(axes, SIDES.items(), strict=True):
        for number, model in enumerate(results.values()):
            values = np.array([list(run['accuracy'][side].values()) for run in model['runs']])
            distances = np.array([int(d) for d in model['runs'][0]['accuracy'][side]])
            shifted = distances + 2 * (number - (len(results) - 1) / 2)  # so that no model hides another
            look = dict(color=COLORS[number], marker=MARKERS[number], lw=0.7, ms=4)
            axis.plot(shifted, values.mean(0), label=model['name'], **look)
            axis.fill_between(shifted, values.min(0), values.max(0), color=COLORS[number], alpha=0.15)
        axis.set(title=title, xlabel='pixels from cue to target', xticks=distances)
        axis.grid(alpha=0.3)
    axes[0].set(ylabel='accuracy (chance 0.5)', ylim=(0.4, 1.03))
    axes[1].legend(loc='center right', fontsize='small')
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110)


def plot_fields(fields: dict[str, np.ndarray], strip: Path, path: Path) -> None:
    """Plot a strip and, below it, receptive fields relative to their greatest value, on a logarithmic scale."""
    rows = len(fields) + 1
    figure, axes = plt.subplots(rows, 1, figsize=(9, 1.25 * rows + 0.6), sharex=True, layout='constrained')
    axes[0].imshow(plt.imread(strip))
    axes[0].set(title='a strip: the ball is the cue, the kites are the targets', yticks=[])
    for axis, (name, field) in zip(axes[1:], fields.items(), strict=True):
        with np.errstate(divide='ignore'):  # the logarithm of no gradient, which is left white
            shown = axis.imshow(np.log10(field / field.max()), vmin=-4, vmax=0, interpolation='nearest')
        axis.set(title=f'{NAMES[name]}: what the central cell sees', yticks=[])
    figure.colorbar(shown, ax=axes, label='log10 of the gradient, mean over strips and seeds; white: none')
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=75)
