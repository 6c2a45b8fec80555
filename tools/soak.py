#!/usr/bin/env python
"""Train while killing: is the end, bit for bit, that of a run that nobody disturbed?

    python tools/soak.py configs/mini/mask_rcnn_mambaout_mini.py soak --kills 20
    python tools/soak.py configs/mini/upernet_mambaout_mini.py soak --kills 20 --processes 2 --cfg-options KEY=VALUE

The config is trained once to its end. Then it is trained again, and every time killed after a random while (SIGKILL, or
a signal that asks it to save and leave); sometimes its newest checkpoint is damaged, too (cut, emptied, one bit
flipped); and it is resumed. At each end the weights, the optimizer's state, the schedules and all that was logged but
times are compared. What is not named above goes to train.py. The exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import doctor  # noqa: F401  (says what to type if an import below fails)
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from mmengine.logging import HistoryBuffer

from backbones.weights import read_checkpoint
from mmengine_plugin import launch
from mmengine_plugin.resume import checkpoints, last_checkpoint

HERE = Path(__file__).resolve().parent
ASKING = [signal.SIGTERM, signal.SIGINT]  # which torchrun hands on to its processes
COMPARED = ('state_dict', 'optimizer', 'param_schedulers')


def start(args: argparse.Namespace, rest: list[str], work_dir: Path) -> subprocess.Popen:
    """Start or resume the training in a session of its own; what it says is added to a log beside its folder."""
    program = [sys.executable, HERE / 'train.py', args.config]
    if args.processes > 1:
        program = [HERE / 'dist_train.sh', args.config, str(args.processes)]
    work_dir.parent.mkdir(parents=True, exist_ok=True)
    with work_dir.with_suffix('.log').open('a') as log:
        return subprocess.Popen(
            [*program, '--work-dir', work_dir, '--resume', *rest],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(PYTHON=sys.executable),
            start_new_session=True,
        )


def wait_for_training(process: subprocess.Popen, work_dir: Path, known: int) -> None:
    """Wait until a training has begun, by the folder of its log, of which there were some before."""
    while process.poll() is None and len(list(work_dir.glob('*/vis_data'))) <= known:
        time.sleep(0.05)


def kill(process: subprocess.Popen, number: signal.Signals, launched: bool) -> None:
    """Kill all processes of a training, or ask them to leave; of several, SIGKILL takes one, as a lost node does."""
    children = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    if number == signal.SIGKILL and launched:
        os.kill(int(random.choice(children)), number)
    elif number == signal.SIGKILL:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    process.wait()


def damage(path: Path) -> str:
    """Damage a file, and say how."""
    content = bytearray(path.read_bytes())
    how = random.choice(['cut', 'emptied', 'one bit flipped'])
    if content and how == 'one bit flipped':
        content[random.randrange(len(content))] ^= 1
    else:
        del content[len(content) // 2 if how == 'cut' else 0 :]
    path.write_bytes(content)
    return f'{path.name} {how}'


def leaves(value: object, name: str = '') -> Iterator[tuple[str, object]]:
    """The values of nested dicts and lists by their dotted names; of a logged curve, its points."""
    if isinstance(value, HistoryBuffer):
        value = value.data[0].tolist()
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        yield name, value
    else:
        for key, part in items:
            yield from leaves(part, f'{name}.{key}' if name else str(key))


def content(work_dir: Path) -> dict[str, object]:
    """What is compared of the last checkpoint of a work directory."""
    checkpoint = read_checkpoint(last_checkpoint(work_dir))
    logged = checkpoint['message_hub']['log_scalars']
    kept = {name: curve for name, curve in logged.items() if not name.endswith(('time', 'memory'))}
    return dict(leaves({key: checkpoint[key] for key in COMPARED} | dict(logged=kept)))


def differences(one: dict[str, object], other: dict[str, object]) -> list[str]:
    """Names of the values that are not equal to the last bit."""

    def equal(a: object, b: object) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a == b

    return [name for name in one | other if name not in one or name not in other or not equal(one[name], other[name])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('out', type=Path, help='folder for the runs')
    parser.add_argument('--kills', type=int, default=20, help='how often (default: 20)')
    parser.add_argument('--processes', type=int, default=1, help='of each training (default: 1)')
    parser.add_argument('--seed', type=int, default=0, help='of the moments and the damages (default: 0)')
    args, rest = parser.parse_known_args()
    random.seed(args.seed)
    whole, broken = args.out / 'whole', args.out / 'broken'
    for work_dir in (whole, broken):
        shutil.rmtree(work_dir, ignore_errors=True)
    print(f'training undisturbed: {whole}.log', flush=True)
    process = start(args, rest, whole)
    wait_for_training(process, whole, 0)
    begun = time.monotonic()
    if process.wait():
        sys.exit(f'error: the undisturbed training failed; its log is {whole}.log')
    seconds, expected = time.monotonic() - begun, content(whole)
    kills = ends = 0
    while True:
        process = start(args, rest, broken)
        wait_for_training(process, broken, len(list(broken.glob('*/vis_data'))))
        try:
            process.wait(random.uniform(0, seconds / 3) if kills < args.kills else None)
        except subprocess.TimeoutExpired:
            kills += 1
            number = random.choice([signal.SIGKILL] * len(ASKING) + ASKING)
            kill(process, number, args.processes > 1)
            print(f'{kills:4} {number.name:8} exit code {process.returncode:4}', end=' ')
            if len(files := checkpoints(broken)) > 1 and random.random() < 0.3:
                print(damage(files[0]), end=' ')
            print(f'left: {", ".join(path.name for path in checkpoints(broken)) or "nothing"}', flush=True)
            continue
        if process.returncode:
            sys.exit(f'error: the training failed; its log is {broken}.log')
        ends += 1
        different = differences(expected, content(broken))
        print(f'end {ends}: {len(different)} of {len(expected)} values differ {", ".join(different[:5])}', flush=True)
        if different:
            sys.exit(1)
        if kills >= args.kills:
            break
        shutil.rmtree(broken)
    print(f'{kills} kills, {ends} ends, all equal to the undisturbed one to the last bit')


if __name__ == '__main__':
    launch.run(main)
