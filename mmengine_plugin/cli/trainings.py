"""Trainings that a program starts one after the other, and the signals that stop them."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from backbones.errors import UserError

from ..engine.signals import EXIT_CODE, SIGNALS


class Trainings:
    """Runs one training at a time in a folder. A signal is passed on to it, and no other begins after that.

    It is a context manager, at whose end signals have their former effect, and the folder is unlocked.

    Args:
        folder: The folder of the trainings. It is locked until this process and its last training have ended, so that
            no second one writes there, even if this process alone is killed.

    Raises:
        UserError: If the folder is locked.
    """

    def __init__(self, folder: Path) -> None:
        self.process: subprocess.Popen | None = None
        self.is_stopped = False
        self.lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self.lock)
            raise UserError(
                f'{folder}: another sweep is running there, or the training of one that was killed: wait until it ends'
            ) from None
        self.handlers = {number: signal.signal(number, self._on_signal) for number in SIGNALS}

    def __enter__(self) -> Trainings:
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        os.close(self.lock)

    def _on_signal(self, number: int, frame: object) -> None:
        self.is_stopped = True
        if self.process:
            self.process.send_signal(signal.SIGTERM)

    def run(self, command: Sequence[object]) -> int:
        """Run a training, and return its exit code; 75 if a signal has stopped this or an earlier one."""
        if self.is_stopped:
            return EXIT_CODE
        # in a session of its own: Ctrl-C would reach it twice otherwise, and the second signal kills a training
        environment = os.environ | dict(PYTHON=sys.executable)
        self.process = subprocess.Popen(command, pass_fds=[self.lock], start_new_session=True, env=environment)
        if self.is_stopped:  # by a signal that came before there was a process
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait()
        return EXIT_CODE if self.is_stopped else code
