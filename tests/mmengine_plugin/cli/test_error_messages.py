"""A program of several processes ends with its own exit code, and its last words are written."""

import os
import socket
import subprocess
import sys

import pytest

from tests.conftest import ROOT, TIME_LIMIT

# the model holds the process group, whose threads live on until the process ends
PROGRAM = """
import atexit, os, sys, threading, time
import torch
from torch import distributed as dist
from mmengine_plugin.cli.error_messages import run
from backbones.errors import UserError

class Last:
    def __del__(self):
        print('Python takes the interpreter apart', flush=True)

last = Last()

def main():
    global model
    atexit.register(lambda: print('atexit was called'))
    print('all work is done')
    if 'RANK' in os.environ:
        dist.init_process_group('gloo')
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
    {end}

run(main)
"""


@pytest.mark.parametrize(
    ('end', 'code', 'message'),
    [
        ('', 0, ''),
        ('sys.exit(75)', 75, ''),
        ("sys.exit('a message')", 1, 'a message'),
        ("raise UserError('no data')", 1, 'error: no data'),
        ("raise RuntimeError('broken')", 1, 'RuntimeError: broken'),
        ('sys.stdout.flush(); atexit.register(lambda: os.close(1))', 120, ''),  # the last lines cannot be written
        ('threading.Thread(target=lambda: (time.sleep(1), print("the thread ended"))).start()', 0, 'the thread ended'),
    ],
)
def test_two_processes_end_with_their_own_exit_code(end, code, message):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    common = os.environ | dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), WORLD_SIZE='2', PYTHONUNBUFFERED='')
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', PROGRAM.format(end=end)],
            env=common | dict(RANK=str(rank)),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        ended = [(process.communicate(timeout=TIME_LIMIT)[0], process.returncode) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for said, returncode in ended:
        assert returncode == code, said
        assert 'all work is done' in said and message in said
        assert ('atexit was called' in said) == (code != 120)
        # gloo's threads would abort a process in this state, now and then
        assert 'takes the interpreter apart' not in said


def test_a_single_process_ends_as_usual():
    command = [sys.executable, '-c', PROGRAM.format(end='sys.exit(3)')]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 3
    assert done.stdout.split('\n')[:3] == [
        'all work is done',
        'atexit was called',
        'Python takes the interpreter apart',
    ]
