#!/usr/bin/env python
"""Tell token mixers that reach far from those that do not: the long-range probe, from data to plots.

    python projects/long_range_probe/probe.py probe

It draws strips as cues.py does, trains each of `configs/*.py` on them from three seeds, and measures the accuracy by
the distance between a cue and the targets whose label it tells, and by the side on which the cue lies. A cue to the
left comes before a target if cells are read row by row. Chance is one half. It also measures the receptive field, as
the gradient of the map's central cell with respect to the image. As many trainings run at a time as there are cores.
The 18 of MambaOut, VMamba and ViT took 36 minutes on two (AMD EPYC). Stop it whenever you like: the same command goes
on.

It writes OUT/probe.json, all figures and how they were measured, OUT/probe.md, tables with the least and the greatest
value of the seeds (accuracies in per cent, distances in pixels), and two plots.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from contextlib import closing
from pathlib import Path

# Python has added this folder alone, and these packages are never installed: benchmarks, projects, tools
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tools import doctor  # noqa: F401  (says what to type if an import below fails)

# isort: split
import numpy as np
import torch

from backbones.errors import UserError
from mmengine_plugin.atomic_files import make_folder, write_json
from mmengine_plugin.cli.arguments import positive
from mmengine_plugin.cli.error_messages import run
from projects.long_range_probe.cues import write_cues
from projects.long_range_probe.measuring import accuracy, field_of, load
from projects.long_range_probe.report import NAMES, write_report
from projects.long_range_probe.trainings import Training, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='folder for data, trainings and results')
    parser.add_argument('--models', nargs='+', choices=NAMES, default=list(NAMES), metavar='NAME')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--images', type=positive, default=4800, help='for training (default: 4800, seen once)')
    parser.add_argument('--iterations', type=positive, default=600, help='length of each training (default: 600)')
    args = parser.parse_args()
    out, data = args.out, args.out / 'data'
    if min(args.seeds) < 0 or args.iterations < 10:
        raise UserError('--seeds takes numbers from 0 on, and --iterations from 10 on')
    make_folder(out)
    check_settings(out / 'settings.json', dict(images=args.images, iterations=args.iterations))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that trainings end with this process
    torch.set_num_threads(1)  # the trainings use the other cores
    write_cues(data, args.images)
    cues = json.loads((data / 'cues.json').read_text())
    trainings = [Training(name, seed, out) for seed in dict.fromkeys(args.seeds) for name in dict.fromkeys(args.models)]
    left = [training for training in trainings if not training.record.is_file()]
    with closing(train(left, data, args.iterations)) as ended:
        for training in ended:
            model, loader = load(training.config, training.checkpoint(), data)
            np.save(training.field, field_of(model, loader))
            seconds = training.seconds_per_iteration()
            scores = accuracy(model, loader, cues)
            write_json(training.record, dict(seed=training.seed, seconds_per_iteration=seconds, accuracy=scores))
            print(f'{training.name}, seed {training.seed}: {seconds:.2f} s an iteration', flush=True)
    write_report(trainings, data, out)


def check_settings(path: Path, settings: dict[str, int]) -> None:
    """Write the settings to a file, or raise a :class:`UserError` if it holds others."""
    if path.is_file() and json.loads(path.read_text()) != settings:
        raise UserError(f'{path.parent} holds runs of other settings, {path.read_text().strip()}: name another folder')
    write_json(path, settings)


if __name__ == '__main__':
    run(main)
