"""``tools/test.py`` from its start to the scores, beside mmdet's own test program on the same checkpoint."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from tqdm import tqdm

from mmengine_plugin import config

from .measuring import compare

ROOT = Path(__file__).resolve().parents[1]
IMAGES = 40  # that are drawn for the test
REST = 'start, imports and the rest'  # of a program's time, beside its phases

# The mini detector, which spends little time in the model, so that the time of everything else is seen
OURS = """
_base_ = {base!r}
test_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(data_root={root!r}))
test_evaluator = dict(ann_file={root!r} + 'annotations/instances_val2017.json', outfile_prefix='found')
"""
# The same on mmdet's own classes, without our hooks
STOCK = """
_base_ = './ours.py'
test_dataloader = dict(dataset=dict(type='CocoDataset'))
test_evaluator = dict(type='CocoMetric')
custom_hooks = []
"""


def measure_test_program(rounds: int) -> Iterator[dict]:
    """Run both programs ``rounds`` times, in turn; yields rows of the report.

    The images are those of ``data/coco``, or drawn ones without it. The weights are random, so the detector finds 100
    objects in each image, nearly all of them wrong. ``host`` of a row has the medians of the phases' seconds.

    Raises:
        RuntimeError: If a program fails, or if the programs find other objects or give other scores.
    """
    mmdet = Path(find_spec('mmdet').origin).parent / '.mim/tools/test.py'
    programs = {"mmdet's test program": (mmdet, 'stock'), 'ours, tools/test.py': (ROOT / 'tools/test.py', 'ours')}
    with tempfile.TemporaryDirectory() as folder:
        images = prepare(Path(folder))
        seconds: dict[str, list[float]] = {name: [] for name in programs}
        phases: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
        scores, found = {}, {}
        for number in tqdm(range(-1, rounds), desc='test program', leave=False):
            for name, (program, cfg) in programs.items():
                whole, parts, scores[name], found[name] = run_program(program, cfg, Path(folder))
                if number >= 0:
                    seconds[name].append(whole)
                    phases[name].append(parts)
    first, second = scores.values()
    if first != second:
        raise RuntimeError(f'the programs give other scores: {scores}')
    objects, others = found.values()
    if objects != others:
        raise RuntimeError('the programs find other objects')
    for name, result in compare(seconds).items():
        result['host'] = {part: statistics.median(times[part] for times in phases[name]) for part in phases[name][0]}
        yield dict(
            suite='evaluation', what='test program', shape=f'{images} images', candidate=name, **result, scores=first
        )


def prepare(folder: Path) -> int:
    """Write the configs and a checkpoint, and draw images if there are none in ``data/coco``.

    Args:
        folder: An empty folder.

    Returns:
        The number of images that are tested.
    """
    data = ROOT / 'data/coco'
    if not data.is_dir():
        data = folder / 'coco'
        make = [sys.executable, ROOT / 'tools/make_mini_dataset.py', 'coco', data, '--images', str(4 * IMAGES)]
        subprocess.run(make, check=True, capture_output=True)
    (folder / 'ours.py').write_text(OURS.format(base=config('mini/mask_rcnn_mambaout_mini'), root=f'{data}/'))
    (folder / 'stock.py').write_text(STOCK)
    cfg = Config.fromfile(folder / 'ours.py')
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    torch.save(dict(state_dict=model.state_dict()), folder / 'weights.pth')
    return len(json.loads(Path(cfg.test_evaluator.ann_file).read_text())['images'])


def run_program(
    program: Path, cfg: str, folder: Path
) -> tuple[float, dict[str, float], dict[str, float], list[dict[str, object]]]:
    """Run a test program in a process of its own.

    Args:
        program: Path of the program.
        cfg: Name of the config in ``folder``, without ``.py``.
        folder: Of :func:`prepare`.

    Returns:
        The seconds from start to end, the seconds of its phases, the scores, and the objects in COCO's format.
    """
    with tempfile.TemporaryDirectory(dir=folder) as work_dir:
        arguments = [program, folder / f'{cfg}.py', folder / 'weights.pth', '--work-dir', work_dir]
        command = [sys.executable, '-m', 'benchmarks.timed_program', Path(work_dir) / 'phases.json', *arguments]
        start = time.perf_counter()
        done = subprocess.run(
            command, cwd=work_dir, env=os.environ | dict(PYTHONPATH=str(ROOT)), capture_output=True, text=True
        )
        whole = time.perf_counter() - start
        if done.returncode:
            raise RuntimeError(f'{program} failed:\n{done.stdout}{done.stderr}')
        phases = json.loads((Path(work_dir) / 'phases.json').read_text())
        (log,) = Path(work_dir).glob('2*/2*.json')  # both are named by the time
        scores = {name: value for name, value in json.loads(log.read_text()).items() if name.startswith('coco/')}
        found = [
            result
            for kind in ('bbox', 'segm')
            for result in json.loads((Path(work_dir) / f'found.{kind}.json').read_text())
        ]
    rest = whole - sum(seconds for name, seconds in phases.items() if ': ' not in name)
    return whole, {'whole program': whole} | phases | {REST: rest}, scores, found
