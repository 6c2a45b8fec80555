#!/usr/bin/env python
"""Tell token mixers that reach far from those that do not: the long-range probe, from data to plots.

    python tools/probe.py probe

Draws `tools/make_mini_dataset.py cue`, trains each of `configs/mini/probe_*.py` on it from three seeds, and scores it
by the distance between a cue and the targets whose label it tells, and by the side on which the cue lies: to the left,
it comes before a target in a reading by rows. Chance is one half. The receptive field is measured beside it, as the
gradient of the map's central cell to the image. As many trainings run at a time as there are cores; all 18 took 35
minutes on two (AMD EPYC). Stop it whenever you like: the same command goes on.

Writes OUT/probe.json, all figures and how they were taken, OUT/probe.md, tables with the least and the greatest value
of the seeds (accuracies in per cent, distances in pixels), and two plots.
"""

from __future__ import annotations

import argparse
import doctor  # says what to type if an import below fails
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

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
from mmengine_plugin.files import whole_file, write_json

plt.switch_backend('agg')
DATA = Path('data/mini/cue')
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


def run(log: Path, tool: str, *arguments: object) -> None:
    """Run a program of ``tools/`` on one thread; keep what it says in a log."""
    command = [sys.executable, str(Path(__file__).with_name(tool)), *map(str, arguments)]
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | dict(OMP_NUM_THREADS='1')
    with log.open('w') as file:
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
    if done.returncode:
        raise UserError(f'{tool} ended with exit code {done.returncode}; the end of {log}:\n{log.read_text()[-2000:]}')


def train(config: Path, work_dir: Path, seed: int, iterations: int) -> float:
    """Train one model to its end, from its last checkpoint if there is one; returns the seconds."""
    start, warmup = time.time(), iterations // 10
    options = [f'randomness.seed={seed}', f'train_cfg.max_iters={iterations}', f'param_scheduler.0.end={warmup}']
    options += [f'param_scheduler.1.begin={warmup}', f'param_scheduler.1.end={iterations}']
    run(work_dir / 'train.log', 'train.py', config, '--work-dir', work_dir, '--resume', '--cfg-options', *options)
    return time.time() - start


def load(config: Path, work_dir: Path) -> tuple[nn.Module, DataLoader]:
    """A trained model and the validation images."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model).eval()
    load_checkpoint(model, str(work_dir / (work_dir / 'last_checkpoint').read_text()), map_location='cpu')
    cfg.test_dataloader.batch_size = 16
    return model, Runner.build_dataloader(cfg.test_dataloader)


@torch.no_grad()
def accuracy(model: nn.Module, loader: DataLoader) -> dict[str, dict[int, float]]:
    """How often the cell in which a target's centre lies scores its label above the other, by side and distance."""
    cues = json.loads((DATA / 'cues.json').read_text())
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


def figures(name: str, config: Path, runs: list[dict], out: Path) -> dict:
    """What is known of one model."""
    counts = out / f'{name}_flops.json'
    run(counts.with_suffix('.log'), 'get_flops.py', config, '--shape', 48, 512, '--json', counts)
    return dict(name=NAMES[name], **json.loads(counts.read_text())['parts']['backbone'], runs=runs)


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
    """Accuracy over distance: the seeds' mean as a line, their range as a band."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout='constrained')
    for axis, (side, title) in zip(axes, SIDES.items(), strict=True):
        for number, model in enumerate(results.values()):
            values = np.array([list(run['accuracy'][side].values()) for run in model['runs']])
            distances = [int(d) for d in model['runs'][0]['accuracy'][side]]
            axis.plot(distances, values.mean(0), f'C{number}-{"osPDv^"[number]}', label=model['name'], markersize=4)
            axis.fill_between(distances, values.min(0), values.max(0), color=f'C{number}', alpha=0.15)
        axis.set(title=title, xlabel='pixels from cue to target', xticks=distances)
        axis.grid(alpha=0.3)
    axes[0].set(ylabel='accuracy (chance 0.5)', ylim=(0.4, 1.03))
    axes[1].legend(loc='center right', fontsize='small')
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=110)


def plot_fields(fields: dict[str, np.ndarray], path: Path) -> None:
    """A strip, and below it receptive fields, in parts of their greatest value, on a logarithmic scale."""
    rows = len(fields) + 1
    figure, axes = plt.subplots(rows, 1, figsize=(9, 1.25 * rows + 0.6), sharex=True, layout='constrained')
    axes[0].imshow(plt.imread(min(DATA.glob('images/validation/*.jpg'))))
    axes[0].set(title='a strip: the ball is the cue, the kites are the targets', yticks=[])
    for axis, (name, field) in zip(axes[1:], fields.items(), strict=True):
        with np.errstate(divide='ignore'):  # of no gradient, which is left white
            shown = axis.imshow(np.log10(field / field.max()), vmin=-4, vmax=0, interpolation='nearest')
        axis.set(title=NAMES[name], yticks=[])
    figure.colorbar(shown, ax=axes, label='log10 of the gradient')
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=75)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='folder for trainings and results')
    parser.add_argument('--models', nargs='+', choices=NAMES, default=list(NAMES), metavar='NAME')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--images', type=int, default=4800, help='for training (default: 4800, seen once)')
    parser.add_argument('--iterations', type=int, default=600, help='of each training (default: 600)')
    args = parser.parse_args()
    torch.set_num_threads(1)  # trainings run beside
    run(args.out / 'data.log', 'make_mini_dataset.py', 'cue', DATA, '--images', args.images)
    settings = dict(images=args.images, iterations=args.iterations)
    configs = {name: Path(__file__).parents[1] / f'configs/mini/probe_{name}.py' for name in args.models}
    cores = os.cpu_count()
    with ThreadPoolExecutor(cores) as pool:
        waiting = {}
        for seed in args.seeds:
            for name, config in configs.items():
                work_dir = args.out / f'{name}_{seed}'
                record = work_dir / 'probe.json'
                if not record.is_file():
                    waiting[pool.submit(train, config, work_dir, seed, args.iterations)] = name, seed, work_dir, record
                elif json.loads(record.read_text())['settings'] != settings:
                    raise UserError(f'{work_dir} holds a run of other settings: name another folder')
        for training in as_completed(waiting):
            name, seed, work_dir, record = waiting[training]
            seconds = training.result()
            model, loader = load(configs[name], work_dir)
            np.save(work_dir / 'receptive_field.npy', receptive_field(model, loader))
            result = dict(seed=seed, settings=settings, seconds=round(seconds), accuracy=accuracy(model, loader))
            write_json(record, result)
            print(f'{name}, seed {seed}: {seconds:.0f} s', flush=True)
    results, fields = {}, {}
    for name, config in configs.items():
        runs, maps = [], []
        for seed in args.seeds:
            work_dir = args.out / f'{name}_{seed}'
            maps.append(np.load(work_dir / 'receptive_field.npy'))
            runs.append(json.loads((work_dir / 'probe.json').read_text()) | dict(receptive_field=extent(maps[-1])))
        results[name], fields[name] = figures(name, config, runs, args.out), np.mean(maps, axis=0)
    content = dict(
        **doctor.taken(),
        cores=cores,
        data=json.loads((DATA / 'mini.json').read_text()),
        models=results,
    )
    write_json(args.out / 'probe.json', content)
    with whole_file(args.out / 'probe.md') as temporary:
        temporary.write_text(tables(results))
    plot_accuracy(results, args.out / 'probe_accuracy.png')
    plot_fields(fields, args.out / 'probe_receptive_fields.png')
    print(tables(results))


if __name__ == '__main__':
    launch.run(main)
