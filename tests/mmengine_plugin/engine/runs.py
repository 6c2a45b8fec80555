"""Trainings in processes of their own, which a test can kill at any moment."""

import gc
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import matplotlib.pyplot  # noqa: F401  (once, not in each process)
import mmengine.runner.runner
import torch
import torch.utils.tensorboard
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from tests.conftest import TIME_LIMIT


@HOOKS.register_module()
class Send(Hook):
    """Sends this process a signal at a moment of the run."""

    priority = 'VERY_HIGH'

    def __init__(self, number: int, moment: str, iteration: int) -> None:
        setattr(self, moment, lambda runner, *args, **kwargs: runner.iter == iteration and os.kill(os.getpid(), number))


def train(settings: dict | Config, lines: int = 0) -> None:
    """Train in this process. With ``lines``, kill it after so many lines of the code that writes checkpoints."""
    counted = 0

    def trace(frame, event, argument):
        nonlocal counted
        if not frame.f_code.co_filename.endswith(
            ('plugin/atomic_files.py', '/checkpoint_hook.py', '/checkpoint_files.py')
        ):
            return None
        counted += event == 'line'
        if counted == lines:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    mmengine.runner.runner.collect_env = dict  # it asks compilers for their versions, which takes longer than the rest
    if lines:
        sys.settrace(trace)
    if settings.get('visualizer'):  # another one than a test may have left here, whose threads do not exist in a fork
        settings['visualizer']['name'] = settings['work_dir']
    Runner.from_cfg(settings).train()


def train_in_a_process(output: Path, settings: dict | Config, lines: int = 0) -> tuple[int, str]:
    """Train in a process of its own; return its exit code and its output, which is written to a file meanwhile."""
    output.unlink(missing_ok=True)
    process = multiprocessing.get_context('fork').Process(target=_child, args=(output, settings, lines))
    process.start()
    process.join(TIME_LIMIT)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode, output.read_text()


def _child(output: Path, settings: dict | Config, lines: int) -> None:
    sys.stdout = sys.stderr = output.open('a', buffering=1)
    gc.freeze()  # data sets collect garbage, which takes long among all the modules that the tests have imported
    torch.set_num_threads(1)  # the threads of the process that was forked do not exist here
    train(settings, lines)
