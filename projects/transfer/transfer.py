#!/usr/bin/env python
"""Train classifiers on drawn shapes, and start detectors from them: do these score higher than from scratch?

    python projects/transfer/transfer.py transfer

draws the data, trains one classifier and two detectors for each model and seed, and writes a table and a plot to the
folder. The same command goes on after an interruption: trainings that are complete are not repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import mmengine
import timm
import torch

from backbones.errors import UserError
from mmengine_plugin.atomic_files import atomic_file, write_json

matplotlib.use('Agg')
import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
TOOLS = HERE.parents[1] / 'tools'
MODELS = dict(mambaout='MambaOut', mambaout_ssm='MambaOut + SSM, rows')
IMAGES = dict(imagenet=600, coco=240)  # for training; a quarter of them is added for validation
STARTS = ('from scratch', 'from the classifier')


def run(log: Path, tool: str, *arguments: object) -> None:
    """Run a program of ``tools/`` on one thread of a CPU, and write its output to a log.

    Raises:
        UserError: If it fails, with the end of its log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    with log.open('w') as file:
        command = [sys.executable, str(TOOLS / tool), *map(str, arguments)]
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment).returncode
    if code:
        raise UserError(f'{tool} ended with exit code {code}; the end of {log}:\n{log.read_text()[-2000:]}')


def train(config: str, work_dir: Path, data: Path, seed: int, *options: str) -> list[dict]:
    """Train by a config of this folder, unless it is done already.

    Returns:
        The scores of each validation.
    """
    done = work_dir / 'scores.json'
    if not done.exists():
        options = [f'randomness.seed={seed}', *options, *(f'{s}_dataloader.num_workers=1' for s in ('train', 'val'))]
        if 'mask_rcnn' in config:
            files = {f'{s}_dataloader.dataset.data_root': f'{data}/coco/' for s in ('train', 'val')}
            files['val_evaluator.ann_file'] = data / 'coco/annotations/instances_val2017.json'
        else:
            files = {f'{s}_dataloader.dataset.root': data / 'imagenet' for s in ('train', 'val')}
        options += [f'{key}={value}' for key, value in files.items()]
        # a run that was interrupted goes on
        resume = ['--resume'] if (work_dir / 'last_checkpoint').exists() else []
        path = HERE / f'configs/{config}.py'
        run(work_dir / 'log.txt', 'train.py', path, '--work-dir', work_dir, *resume, '--cfg-options', *options)
        lines = [json.loads(line) for file in work_dir.glob('*/vis_data/scalars.json') for line in file.open()]
        scores = sorted((line for line in lines if 'loss' not in line), key=lambda line: line['step'])
        write_json(done, scores)
    return json.loads(done.read_text())


def transfer(out: Path, data: Path, model: str, seed: int) -> dict:
    """Train a classifier, and detectors from scratch and from its weights.

    Returns:
        The model, the seed, the classifier's top-1, and box and mask AP of both detectors, in percent.
    """
    folder = out / f'{model}_{seed}'
    classified = train(f'imagenet_{model}', folder / 'imagenet', data, seed)
    checkpoint = folder / 'imagenet' / Path((folder / 'imagenet/last_checkpoint').read_text()).name
    inits = ('model.backbone.init_cfg=None', f'model.backbone.init_cfg.checkpoint={checkpoint}')
    row = dict(model=model, seed=seed, top1=round(classified[-1]['accuracy/top1'], 1))
    for start, init in zip(STARTS, inits, strict=True):
        scores = train(f'mask_rcnn_{model}', folder / start.replace(' ', '_'), data, seed, init)[-1]
        row[start] = {kind: round(100 * scores[f'coco/{kind}_mAP'], 1) for kind in ('bbox', 'segm')}
    print(row, flush=True)
    return row


def draw(rows: Sequence[dict], path: Path) -> None:
    """Plot the box AP of each pair of detectors, joined by a line, model by model."""
    models = [model for model in MODELS if any(row['model'] == model for row in rows)]
    highest = max(row[start]['bbox'] for row in rows for start in STARTS)
    figure, axes = plt.subplots(1, len(models), figsize=(3.6 * len(models), 3.4), sharey=True, squeeze=False)
    for axis, model in zip(axes[0], models, strict=True):
        for row in (row for row in rows if row['model'] == model):
            axis.plot(STARTS, [row[start]['bbox'] for start in STARTS], 'o-', label=f'seed {row["seed"]}')
        axis.set(title=MODELS[model], xlim=(-0.4, 1.4), ylim=(0, 1.1 * highest))
        axis.grid(axis='y', alpha=0.3)
    axes[0][0].set_ylabel('box AP (%)')
    axes[0][-1].legend()
    figure.tight_layout()
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format='png', dpi=110)


def table(rows: Sequence[dict]) -> str:
    """The table of the page, in Markdown."""
    columns = ['box AP from scratch', 'from the classifier', 'mask AP from scratch', 'from the classifier']
    lines = [f'| model | seed | top-1 | {" | ".join(columns)} |']
    lines += ['| --- | --- | --- | --- | --- | --- | --- |']
    for row in rows:
        scores = [f'{row[start][kind]:.1f}' for kind in ('bbox', 'segm') for start in STARTS]
        lines.append(f'| {MODELS[row["model"]]} | {row["seed"]} | {row["top1"]:.1f} | {" | ".join(scores)} |')
    return '\n'.join(lines) + '\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='folder for data, trainings and results')
    parser.add_argument('--models', nargs='+', choices=MODELS, default=list(MODELS), help='default: all')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2], help='default: 0 1 2')
    args = parser.parse_args()
    out = args.out.resolve()
    data = out / 'data'
    for kind, images in IMAGES.items():
        run(out / f'{kind}.log', 'make_mini_dataset.py', kind, data / kind, '--images', images)
    rows = [transfer(out, data, model, seed) for model in args.models for seed in args.seeds]
    versions = dict(torch=torch.__version__, timm=timm.__version__, mmengine=mmengine.__version__)
    write_json(out / 'transfer.json', dict(command=' '.join(sys.argv), images=IMAGES, versions=versions, rows=rows))
    (out / 'transfer.md').write_text(table(rows))
    draw(rows, out / 'transfer.png')
    print(table(rows))


if __name__ == '__main__':
    main()
