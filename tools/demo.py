#!/usr/bin/env python
"""Train, test and show Mask R-CNN and UperNet with MambaOut on mini data, from nothing to pictures and one table.

    python tools/demo.py demo

It runs the same programs as a user does, with configs that inherit the paper's recipes. Start it in the root of the
repository. The mini data goes to data/mini, and all results go to the folder that is given.
"""

import argparse
import doctor  # noqa: F401  (says what to type if an import below fails)
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import matplotlib

from mmengine_plugin.atomic_files import write_json
from mmengine_plugin.inference.drawing import draw_sheet

matplotlib.use('Agg')
import matplotlib.pyplot as plt


class Task(NamedTuple):
    config: str
    data: str  # kind of mini data
    scores: dict[str, str]  # name in the summary: name in the scores of test.py


TASKS = dict(
    detection=Task('mask_rcnn_mambaout_mini', 'coco', {'bbox_mAP': 'coco/bbox_mAP', 'segm_mAP': 'coco/segm_mAP'}),
    segmentation=Task('upernet_mambaout_mini', 'ade20k', {'mIoU': 'mIoU'}),
)


def run(log: Path, tool: str, *arguments: str | Path) -> None:
    """Run a program of this folder, write its output to a log, and show its progress."""
    command = [sys.executable, f'tools/{tool}', *map(str, arguments)]
    print('$ python', *command[1:], flush=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open('w', buffering=1) as file,
        subprocess.Popen(command, stdout=-1, stderr=subprocess.STDOUT, text=True) as process,
    ):
        for line in process.stdout:
            file.write(line)
            if progress := re.search(r'(?:Epoch|Iter)\((?:train|val|test)\).*', line):
                print('  ', progress[0][:110], flush=True)
    if process.returncode:
        sys.exit(
            f'error: {tool} ended with exit code {process.returncode}; the end of {log}:\n{log.read_text()[-2000:]}'
        )


def run_task(name: str, task: Task, out: Path) -> dict:
    """Make data, train, test and draw; returns the scores, the seconds and the paths of the results."""
    start, config, work_dir = time.time(), f'configs/mini/{task.config}.py', out / name
    run(out / f'{name}_data.log', 'make_mini_dataset.py', task.data, f'data/mini/{task.data}')
    run(out / f'{name}_train.log', 'train.py', config, '--work-dir', work_dir)
    checkpoint = str(work_dir / (work_dir / 'last_checkpoint').read_text())
    scores, pictures, sheet = work_dir / 'scores.json', work_dir / 'pictures', out / f'{name}.png'
    test = ['--work-dir', work_dir, '--json', scores, '--show-dir', pictures]
    run(out / f'{name}_test.log', 'test.py', config, checkpoint, *test)
    draw_sheet(sorted(pictures.glob('*.png')), sheet)  # in each, ground truth left, prediction right
    tested = json.loads(scores.read_text())
    return {
        # mmseg's scores are in percent, mmdet's from 0 to 1
        **{key: tested[score] / (100 if key == 'mIoU' else 1) for key, score in task.scores.items()},
        'seconds': round(time.time() - start),
        'checkpoint': checkpoint,
        'pictures': str(pictures),
        'sheet': str(sheet),
    }


def draw_curves(out: Path) -> str:
    """Plot training loss and held-out scores of both tasks, from the scalars that the newest training wrote."""
    figure, axes = plt.subplots(2, len(TASKS), figsize=(6 * len(TASKS), 6), squeeze=False, layout='constrained')
    for (name, task), (above, below) in zip(TASKS.items(), axes.T, strict=True):
        runs = [[json.loads(line) for line in path.open()] for path in sorted((out / name).glob('*/*/scalars.json'))]
        lines = [run for run in runs if 'loss' in run[0]][-1]  # a test writes no loss
        above.plot(
            *zip(*((line['step'], line['loss']) for line in lines if 'loss' in line), strict=True), color='black'
        )
        above.set(title=f'{name}: {task.config}', xlabel='iteration', ylabel='training loss', yscale='log')
        for key, score in task.scores.items():
            below.plot(
                *zip(*((line['step'], line[score]) for line in lines if score in line), strict=True), 'o-', label=key
            )
        below.set(xlabel='epoch' if task.data == 'coco' else 'iteration', ylabel='held-out score', ylim=(0, None))
        below.legend()
    figure.savefig(out / 'curves.png', dpi=110)
    return str(out / 'curves.png')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('out', type=Path, help='folder for the results')
    out = parser.parse_args().out
    results = {name: run_task(name, task, out) for name, task in TASKS.items()}
    summary = {key: value for name, task in TASKS.items() for key, value in results[name].items() if key in task.scores}
    summary |= dict(curves=draw_curves(out), tasks=results)
    write_json(out / 'summary.json', summary)
    print(f'\n{"held-out mini data":20} {"score":>22} {"seconds":>8}  pictures')
    for name, task in TASKS.items():
        scores = '  '.join(f'{key} {results[name][key]:.3f}' for key in task.scores)
        sheet, folder = results[name]['sheet'], results[name]['pictures']
        print(f'{name:20} {scores:>22} {results[name]["seconds"]:8}  {sheet}, {folder}/')
    print(f'curves: {summary["curves"]}; all figures: {out / "summary.json"}')


if __name__ == '__main__':
    main()
