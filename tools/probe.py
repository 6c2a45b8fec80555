#!/usr/bin/env python
"""Tell token mixers that reach far from those that do not: the long-range probe, from data to plots.

    python tools/probe.py probe

Draws `tools/make_mini_dataset.py cue`, trains each of `configs/mini/probe_*.py` on it from three seeds, and scores it
by the distance between a cue and the targets whose label it tells, and by the side on which the cue lies: to the left,
it comes before a target in a reading by rows. Chance is one half. The receptive field is measured beside it, as the
gradient of the map's central cell to the image. As many trainings run at a time as there are cores; all 18 took 36
minutes on two (AMD EPYC). Stop it whenever you like: the same command goes on.

Writes OUT/probe.json, all figures and how they were taken, OUT/probe.md, tables with the least and the greatest value
of the seeds (accuracies in per cent, distances in pixels), and two plots.
"""

from __future__ import annotations

import argparse
import doctor  # says what to type if an import below fails
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, load_checkpoint
from torch import nn
from torch.utils.data import DataLoader

from backbones.errors import UserError
from mmengine_plugin import launch
from mmengine_plugin.files import make_folder, whole_file, write_json

plt.switch_backend('agg')
NAMES = dict(  # a config's: the plots'
    mambaout='MambaOut',
    mambaout_ssm_rows='MambaOut + SSM, rows',
    mambaout_ssm='MambaOut + SSM, 4 orders',
    vmamba='VMamba',
    vit='ViT',
    vit_causal='ViT, causal',
)
SIDES = dict(left='cue to the left, read before', right='cue to the right, read after')
STRIDE = 16
FIELD_IMAGES = 32  # on which the receptive field is averaged
CORES = os.cpu_count()


class Run(NamedTuple):
    """One training of one model, and what is known of it."""

    name: str
    seed: int
    out: Path

    @property
    def config(self) -> Path:
        return Path(__file__).parents[1] / f'configs/mini/probe_{self.name}.py'

    @property
    def work_dir(self) -> Path:
        return self.out / f'{self.name}_{self.seed}'

    @property
    def record(self) -> Path:
        return self.work_dir / 'probe.json'

    @property
    def field(self) -> Path:
        return self.work_dir / 'receptive_field.npy'


def start(log: Path, tool: str, *arguments: object) -> subprocess.Popen:
    """Start a program of ``tools/`` on one thread of a CPU; a log goes on with what it says."""
    command = [sys.executable, str(Path(__file__).with_name(tool)), *map(str, arguments)]
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    with log.open('a') as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)


def finish(process: subprocess.Popen, log: Path) -> None:
    """Wait for a program, and raise a :class:`UserError` with the end of its log if it failed."""
    if process.wait():
        tool, said = Path(process.args[1]).name, log.read_text()[-2000:]
        raise UserError(f'{tool} ended with exit code {process.returncode}; the end of {log}:\n{said}')


def train(runs: Sequence[Run], data: Path, iterations: int) -> Iterator[Run]:
    """Train from the last checkpoint, if there is one, to the end; gives each run that got there.

    Closing it ends the trainings that are under way.
    """
    options = [f'{loader}_dataloader.dataset.data_root={data}' for loader in ('train', 'test')]
    options += [f'train_cfg.max_iters={iterations}', f'param_scheduler.0.end={iterations // 10}']
    options += [f'param_scheduler.1.begin={iterations // 10}', f'param_scheduler.1.end={iterations}']
    waiting, running = list(runs), {}
    try:
        while waiting or running:
            for run in waiting[: CORES - len(running)]:
                waiting.remove(run)
                arguments = run.config, '--work-dir', run.work_dir, '--resume', '--cfg-options', *options
                log = run.work_dir / 'train.log'
                running[run] = start(log, 'train.py', *arguments, f'randomness.seed={run.seed}'), log
            for run, (process, log) in list(running.items()):
                if process.poll() is not None:
                    finish(process, log)
                    del running[run]
                    yield run
            time.sleep(0.2)
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()


def seconds_per_iteration(work_dir: Path) -> float:
    """The median of what a training, and its beginnings that were stopped, logged."""
    lines = [json.loads(line) for path in work_dir.glob('*/vis_data/scalars.json') for line in path.open()]
    return float(np.median([line['time'] for line in lines if 'loss' in line]))


def load(run: Run, data: Path) -> tuple[nn.Module, DataLoader]:
    """A trained model and the validation images."""
    cfg = Config.fromfile(run.config)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).eval()
    load_checkpoint(model, str(run.work_dir / (run.work_dir / 'last_checkpoint').read_text()), map_location='cpu')
    cfg.test_dataloader.batch_size, cfg.test_dataloader.dataset.data_root = 16, str(data)
    return model, Runner.build_dataloader(cfg.test_dataloader)


@torch.no_grad()
def accuracy(model: nn.Module, loader: DataLoader, cues: dict[str, dict]) -> dict[str, dict[int, float]]:
    """How often the cell in which a target's centre lies scores its label above the other, by side and distance."""
    right: dict[str, dict[int, list[bool]]] = {side: {} for side in SIDES}
    for batch in loader:
        batch = model.data_preprocessor(batch)
        scores = model(batch['inputs'], mode='tensor')  # (B, 3, H, W), not enlarged to the image
        for score, sample in zip(scores, batch['data_samples'], strict=True):
            truth = cues[Path(sample.img_path).stem]
            (x, y), label = truth['cue'], truth['label']
            for target in truth['targets']:
                cell = score[:, y // STRIDE, target // STRIDE]
                found = right['left' if x < target else 'right'].setdefault(abs(x - target), [])
                found.append(bool(cell[label] > cell[3 - label]))
    return {side: {d: float(np.mean(found[d])) for d in sorted(found)} for side, found in right.items()}


def receptive_field(model: nn.Module, loader: DataLoader) -> np.ndarray:
    """Mean absolute gradient ``(H, W)`` of the map's central cell to the image.

    The cell's channels are added up with random weights, because behind a LayerNorm their plain sum is constant.
    """
    generator, total, count = torch.Generator().manual_seed(0), 0, 0
    for batch in loader:
        images = model.data_preprocessor(batch)['inputs'].requires_grad_()
        (features,) = model.backbone(images)
        cells = features[..., features.shape[2] // 2, features.shape[3] // 2]
        (cells * torch.randn(cells.shape, generator=generator)).sum().backward()
        total, count = total + images.grad.abs().sum((0, 1)), count + len(images)
        if count >= FIELD_IMAGES:
            break
    return (total / count).numpy()


def extent(field: np.ndarray) -> dict[str, int]:
    """How far a receptive field reaches in its cell's row of cells, in pixels from the left border of the cell.

    Returns:
        ``left`` and ``right``, the farthest pixels with any gradient; ``half`` and ``most``, the distances within which
        50 % and 95 % of it lie.
    """
    top, centre = (size // STRIDE // 2 * STRIDE for size in field.shape)
    row = field[top : top + STRIDE].sum(0)
    within = np.cumsum(np.bincount(abs(np.arange(len(row)) - centre), weights=row)) / row.sum()
    seen = np.flatnonzero(row)
    half, most = (int(np.searchsorted(within, part)) for part in (0.5, 0.95))
    return dict(left=centre - int(seen[0]), right=int(seen[-1]) - centre, half=half, most=most)


def spread(values: list[float]) -> str:
    """The least and the greatest value, as rounded."""
    low, high = f'{min(values):.0f}', f'{max(values):.0f}'
    return low if low == high else f'{low} to {high}'


def tables(results: dict[str, dict]) -> str:
    """Markdown: sizes and receptive fields, and for each side accuracies over distances."""
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


def plot_accuracy(results: dict[str, dict], path: Path) -> None:
    """Accuracy over distance: the seeds' mean as a line, their range as a band; models a little beside each other."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout='constrained')
    for axis, (side, title) in zip(axes, SIDES.items(), strict=True):
        for number, model in enumerate(results.values()):
            values = np.array([list(run['accuracy'][side].values()) for run in model['runs']])
            distances = np.array([int(d) for d in model['runs'][0]['accuracy'][side]])
            shown = distances + 3 * (number - (len(results) - 1) / 2)
            axis.plot(shown, values.mean(0), f'C{number}{"osPDv^"[number]}-', label=model['name'], lw=0.7, ms=4)
            axis.fill_between(shown, values.min(0), values.max(0), color=f'C{number}', alpha=0.15)
        axis.set(title=title, xlabel='pixels from cue to target', xticks=distances)
        axis.grid(alpha=0.3)
    axes[0].set(ylabel='accuracy (chance 0.5)', ylim=(0.4, 1.03))
    axes[1].legend(loc='center right', fontsize='small')
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)


def plot_fields(fields: dict[str, np.ndarray], strip: Path, path: Path) -> None:
    """A strip, and below it receptive fields, in parts of their greatest value, on a logarithmic scale."""
    rows = len(fields) + 1
    figure, axes = plt.subplots(rows, 1, figsize=(9, 1.25 * rows + 0.6), sharex=True, layout='constrained')
    axes[0].imshow(plt.imread(strip))
    axes[0].set(title='a strip: the ball is the cue, the kites are the targets', yticks=[])
    for axis, (name, field) in zip(axes[1:], fields.items(), strict=True):
        with np.errstate(divide='ignore'):  # of no gradient, which is left white
            shown = axis.imshow(np.log10(field / field.max()), vmin=-4, vmax=0, interpolation='nearest')
        axis.set(title=f'{NAMES[name]}: what the central cell sees', yticks=[])
    figure.colorbar(shown, ax=axes, label='log10 of the gradient, mean over strips and seeds; white: none')
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=75)


def write(runs: Sequence[Run], data: Path, cues: dict[str, dict], out: Path) -> None:
    """All results, from what is known of the runs."""
    results: dict[str, dict] = {}
    fields: dict[str, list[np.ndarray]] = {}
    for run in runs:
        if run.name not in results:
            counts, log = out / f'{run.name}_flops.json', out / f'{run.name}_flops.log'
            finish(start(log, 'get_flops.py', run.config, '--shape', 48, 512, '--json', counts), log)
            size = json.loads(counts.read_text())['parts']['backbone']
            results[run.name], fields[run.name] = dict(name=NAMES[run.name], **size, runs=[]), []
        field = np.load(run.field)
        fields[run.name].append(field)
        results[run.name]['runs'].append(json.loads(run.record.read_text()) | dict(receptive_field=extent(field)))
    drawn = json.loads((data / 'mini.json').read_text())
    write_json(out / 'probe.json', dict(**doctor.taken(), cores=CORES, data=drawn, models=results))
    with whole_file(out / 'probe.md') as temporary:
        temporary.write_text(tables(results))
    plot_accuracy(results, out / 'probe_accuracy.png')
    leftmost = min((stem for stem in cues if 'val' in stem), key=lambda stem: cues[stem]['cue'][0])
    strip = data / f'images/validation/{leftmost}.jpg'
    plot_fields(
        {name: np.mean(found, axis=0) for name, found in fields.items()}, strip, out / 'probe_receptive_fields.png'
    )
    print(tables(results))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='folder for data, trainings and results')
    parser.add_argument('--models', nargs='+', choices=NAMES, default=list(NAMES), metavar='NAME')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--images', type=launch.positive, default=4800, help='for training (default: 4800, seen once)')
    parser.add_argument('--iterations', type=launch.positive, default=600, help='of each training (default: 600)')
    args = parser.parse_args()
    out, data = args.out, args.out / 'data'
    if min(args.seeds) < 0 or args.iterations < 10:
        raise UserError('--seeds takes numbers from 0 on, and --iterations from 10 on')
    make_folder(out)
    settings, kept = dict(images=args.images, iterations=args.iterations), out / 'settings.json'
    if kept.is_file() and json.loads(kept.read_text()) != settings:
        raise UserError(f'{out} holds runs of other settings, {kept.read_text().strip()}: name another folder')
    write_json(kept, settings)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # trainings end with this process
    torch.set_num_threads(1)  # trainings run beside
    finish(start(out / 'data.log', 'make_mini_dataset.py', 'cue', data, '--images', args.images), out / 'data.log')
    cues = json.loads((data / 'cues.json').read_text())
    runs = [Run(name, seed, out) for seed in dict.fromkeys(args.seeds) for name in dict.fromkeys(args.models)]
    with closing(train([run for run in runs if not run.record.is_file()], data, args.iterations)) as trained:
        for run in trained:
            model, loader = load(run, data)
            np.save(run.field, receptive_field(model, loader))
            seconds = seconds_per_iteration(run.work_dir)
            found = dict(seed=run.seed, seconds_per_iteration=seconds, accuracy=accuracy(model, loader, cues))
            write_json(run.record, found)
            print(f'{run.name}, seed {run.seed}: {seconds:.2f} s an iteration', flush=True)
    write(runs, data, cues, out)


if __name__ == '__main__':
    launch.run(main)
