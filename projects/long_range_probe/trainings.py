"""The trainings of the probe: each in a process of its own, as many at a time as there are cores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from backbones.errors import UserError

HERE = Path(__file__).resolve().parent
TOOLS = HERE.parents[1] / 'tools'
CORES = os.cpu_count()


class Training(NamedTuple):
    """One training of one model, and the files that hold what is known of it."""

    name: str
    seed: int
    out: Path

    @property
    def config(self) -> Path:
        """The model's config."""
        return HERE / f'configs/{self.name}.py'

    @property
    def work_dir(self) -> Path:
        """The folder of checkpoints and logs."""
        return self.out / f'{self.name}_{self.seed}'

    @property
    def record(self) -> Path:
        """The model's accuracies, written when all is measured."""
        return self.work_dir / 'probe.json'

    @property
    def field(self) -> Path:
        """The model's receptive field."""
        return self.work_dir / 'receptive_field.npy'

    def checkpoint(self) -> Path:
        """The newest checkpoint."""
        return self.work_dir / (self.work_dir / 'last_checkpoint').read_text()

    def seconds_per_iteration(self) -> float:
        """The median of what was logged, also before the training was stopped and resumed."""
        lines = [json.loads(line) for path in self.work_dir.glob('*/vis_data/scalars.json') for line in path.open()]
        return float(np.median([line['time'] for line in lines if 'loss' in line]))


def start(log: Path, tool: str, *arguments: object) -> subprocess.Popen:
    """Start a program of ``tools/`` on one thread of a CPU; its output is appended to a log."""
    command = [sys.executable, str(TOOLS / tool), *map(str, arguments)]
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | dict(OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='')
    with log.open('a') as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)


def wait(process: subprocess.Popen, log: Path) -> None:
    """Wait until a program ends.

    Raises:
        UserError: If it fails, with the end of its log.
    """
    if process.wait():
        tool, end = Path(process.args[1]).name, log.read_text()[-2000:]
        raise UserError(f'{tool} ended with exit code {process.returncode}; the end of {log}:\n{end}')


def train(trainings: Sequence[Training], data: Path, iterations: int) -> Iterator[Training]:
    """Train to the end, from the last checkpoint if there is one. Closing the iterator stops what is running.

    Args:
        trainings: What to train.
        data: The folder of the images.
        iterations: Length of each training.

    Yields:
        Each training that has ended.

    Raises:
        UserError: If a training fails.
    """
    warm_up = iterations // 10
    options = [f'{loader}_dataloader.dataset.data_root={data}' for loader in ('train', 'test')]
    options += [f'train_cfg.max_iters={iterations}', f'param_scheduler.0.end={warm_up}']
    options += [f'param_scheduler.1.begin={warm_up}', f'param_scheduler.1.end={iterations}']
    waiting, running = list(trainings), {}
    try:
        while waiting or running:
            while waiting and len(running) < CORES:
                training = waiting.pop(0)
                arguments = training.config, '--work-dir', training.work_dir, '--resume', '--cfg-options', *options
                log = training.work_dir / 'train.log'
                running[training] = start(log, 'train.py', *arguments, f'randomness.seed={training.seed}'), log
            for training, (process, log) in list(running.items()):
                if process.poll() is not None:
                    wait(process, log)
                    del running[training]
                    yield training
            time.sleep(0.2)
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()


def count_backbone(training: Training) -> dict[str, int]:
    """Parameters and multiply-accumulates of the backbone for one strip, ``params`` and ``macs``."""
    counts, log = training.out / f'{training.name}_flops.json', training.out / f'{training.name}_flops.log'
    wait(start(log, 'get_flops.py', training.config, '--shape', 48, 512, '--json', counts), log)
    return json.loads(counts.read_text())['parts']['backbone']
