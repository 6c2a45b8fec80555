#!/usr/bin/env python
"""Kill and resume a training at random, and check that it ends as an undisturbed one does, bit for bit.

    python tools/soak.py configs/mini/upernet_mambaout_mini.py soak --kills 20 --processes 2 --cfg-options KEY=VALUE

The config is trained once to its end. Then it is trained again. After a random time, this training is killed, or asked
by a signal to save and exit. Sometimes its newest checkpoint is cut or emptied, or one of its bits is flipped. Then the
training is resumed. Each time it comes to its end, the weights, the optimizer's state, the schedules and all logged
values but times and memory are compared. Arguments that are not named below go to train.py. The exit code is 1 if
anything differs.
"""

import argparse
import doctor  # noqa: F401  (says what to type if an import below fails)
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from mmengine_plugin.cli.error_messages import run
from mmengine_plugin.engine.checkpoint_files import checkpoints
from mmengine_plugin.engine.compare_runs import differences, end_state

HERE = Path(__file__).resolve().parent
SIGNALS = [signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]  # torchrun passes the last two on


def start(args: argparse.Namespace, rest: list[str], work_dir: Path) -> subprocess.Popen:
    """Start or resume a training with a log beside its work directory; wait until it trains or has failed."""
    program = [sys.executable, HERE / 'train.py', args.config]
    if args.processes > 1:
        program = [HERE / 'dist_train.sh', args.config, str(args.processes)]
    logs = len(list(work_dir.glob('*/vis_data')))
    command = [*program, '--work-dir', work_dir, '--resume', *rest]
    env = os.environ | dict(PYTHON=sys.executable)
    with work_dir.with_suffix('.log').open('a') as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
    while process.poll() is None and len(list(work_dir.glob('*/vis_data'))) <= logs:
        time.sleep(0.05)
    return process


def kill(process: subprocess.Popen, number: signal.Signals, launched: bool) -> None:
    """Send a signal to a training; SIGKILL takes one of several processes, as a lost node does."""
    if number != signal.SIGKILL:
        process.send_signal(number)
    elif launched:
        children = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
        os.kill(int(random.choice(children)), number)
    else:
        os.killpg(process.pid, number)
    process.wait()


def damage(path: Path) -> str:
    """Damage a file, and say how."""
    content = bytearray(path.read_bytes())
    how = random.choice(['cut', 'emptied', 'one bit flipped'])
    if how == 'cut':
        del content[len(content) // 2 :]
    elif how == 'emptied':
        content.clear()
    elif content:
        content[random.randrange(len(content))] ^= 1
    path.write_bytes(content)
    return f'{path.name} {how}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('out', type=Path, help='folder for the runs')
    parser.add_argument('--kills', type=int, default=20, help='how often the training is killed (default: 20)')
    parser.add_argument('--processes', type=int, default=1, help='processes of each training (default: 1)')
    parser.add_argument('--seed', type=int, default=0, help='seed of times, signals and damage (default: 0)')
    args, rest = parser.parse_known_args()
    random.seed(args.seed)
    undisturbed, killed = args.out / 'whole', args.out / 'broken'
    args.out.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(undisturbed, ignore_errors=True)
    shutil.rmtree(killed, ignore_errors=True)
    print(f'training undisturbed: {undisturbed}.log', flush=True)
    process = start(args, rest, undisturbed)
    begin = time.monotonic()
    if process.wait():
        sys.exit(f'error: the undisturbed training failed; its log is {undisturbed}.log')
    seconds, expected = time.monotonic() - begin, end_state(undisturbed)
    kills = ends = 0
    while True:
        process = start(args, rest, killed)
        try:
            process.wait(random.uniform(0, seconds / 3) if kills < args.kills else None)
        except subprocess.TimeoutExpired:
            kills += 1
            number = random.choice(SIGNALS)
            kill(process, number, args.processes > 1)
            print(f'{kills:4} {number.name:8} exit code {process.returncode:4}', end=' ')
            if len(files := checkpoints(killed)) > 1 and random.random() < 0.3:
                print(damage(files[0]), end=' ')
            print(f'left: {", ".join(path.name for path in checkpoints(killed)) or "nothing"}', flush=True)
            continue
        if process.returncode:
            sys.exit(f'error: the training failed; its log is {killed}.log')
        ends += 1
        different = differences(expected, end_state(killed))
        print(f'end {ends}: {len(different)} of {len(expected)} values differ {", ".join(different[:5])}', flush=True)
        if different:
            sys.exit(1)
        if kills >= args.kills:
            break
        shutil.rmtree(killed)
    print(f'{kills} kills, {ends} ends, all equal to the undisturbed one to the last bit')


if __name__ == '__main__':
    run(main)
