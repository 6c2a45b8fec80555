"""The signals that ask a run to save and exit, and the workers of data loaders that must survive them."""

from __future__ import annotations

import os
import signal

import torch
from mmengine.dist import get_rank
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
    seed_all(torch.initial_seed(), get_rank())  # for data sets that do not seed their augmentations by iteration
