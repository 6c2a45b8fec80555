"""The signals that ask a run to save and exit, and the workers of data loaders that must survive them."""

from __future__ import annotations

import os
import signal
import time

import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.registry import FUNCTIONS

from .sampling import seed_all

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h, "try again": the exit code of a run that saved and exited
# SIGUSR1 is what Slurm users ask for by --signal=USR1@120; Windows does not have it
SIGNALS = tuple(getattr(signal, name) for name in ('SIGTERM', 'SIGINT', 'SIGUSR1') if hasattr(signal, name))


@FUNCTIONS.register_module(name=['ignore_signals', 'outlive_signals'])  # the second is its name before version 0.2
def ignore_signals(worker_id: int, **kwargs: object) -> None:
    """Keep a data loader's worker alive while the run saves: a ``worker_init_fn`` of torch's DataLoader.

    Ctrl-C and torchrun signal whole process groups. The worker ignores SIGINT and SIGUSR1, and is in a group of its
    own. It still obeys SIGTERM, with which the training process ends it.
    """
    if hasattr(os, 'setpgrp'):  # not on Windows
        os.setpgrp()
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    seed_all(torch.initial_seed(), get_rank())  # for mmengine's own loops, which do not seed samples by iteration


class SignalPoll:
    """Asks all processes for a signal that any of them has received, about once a second.

    Every process must call :meth:`ask` equally often. How many calls make a second is computed from a time that the
    processes exchange, so that all of them communicate in the same call.
    """

    MOST_CALLS = 256  # from one exchange to the next, because later calls may take longer

    def __init__(self) -> None:
        self.calls = 0  # since the last exchange
        self.interval = 1  # calls from one exchange to the next
        self.time = time.monotonic()  # of the last exchange
        self.signal_number = 0  # that the processes have agreed on

    def ask(self, signal_number: int) -> int:
        """Return the signal that the processes know of.

        Args:
            signal_number: The signal that this process has received, or 0.

        Returns:
            The number of the signal, the same in all processes, or 0.
        """
        if get_world_size() == 1:
            return signal_number
        self.calls += 1
        if not self.signal_number and self.calls >= self.interval:
            known = torch.tensor([signal_number, time.monotonic() - self.time], dtype=torch.float64)
            all_reduce(known, 'max')
            self.signal_number, seconds = int(known[0]), max(known[1].item(), 1e-3)
            self.interval = min(max(1, int(self.calls / seconds)), 2 * self.interval, self.MOST_CALLS)
            self.calls, self.time = 0, time.monotonic()
        return self.signal_number
