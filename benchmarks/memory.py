"""The memory of a CPU: what a function takes at its peak, and a limit that turns too much of it into an error.

The C library keeps freed memory for later, and what it keeps depends on all that a process has done before. Peaks are
therefore measured in a :func:`fresh_process`, and times in a process that nobody has told to return memory at once.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import resource
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from pathlib import Path, PurePosixPath
from unittest.mock import patch

import torch

from backbones.errors import UserError

PROCESS = Path('/proc/self')
PEAKS = (PROCESS / 'clear_refs').exists()  # Linux alone can reset the peak of a process
OUT_OF_MEMORY = 'out of memory'
# Allocations from 64 KiB on are mapped one by one, and returned to the system as soon as they are freed
RETURN_AT_ONCE = {'MALLOC_MMAP_THRESHOLD_': str(2**16)}  # an environment variable of GNU's C library
RESERVED = 2**30  # bytes that are left to the rest of the machine
_OLDEST = torch.ones((), requires_grad=True).clone()  # a node of autograd from before all that is measured


@contextlib.contextmanager
def fresh_process() -> Iterator[Callable]:
    """A new process, whose C library returns memory to the system as soon as it is freed, in a ``with`` statement.

    Yields:
        A function that calls a module's function there, ``call(function, *arguments)``, and returns its result. The
        function, its arguments and its result can be pickled. It raises a :class:`UserError` if the process ends, and
        the next call runs in another one. The process never outlives this one.
    """
    with contextlib.ExitStack() as stack:
        pools: list[ProcessPoolExecutor] = []

        def call(function: Callable, *arguments: object) -> object:
            if not pools:
                pools.append(stack.enter_context(ProcessPoolExecutor(1, get_context('spawn'), end_with_parent)))
            try:
                return pools[0].submit(function, *arguments).result()
            except BrokenProcessPool:
                pools.clear()  # the next call gets another process
                raise UserError('the process that measured its memory was ended, perhaps for lack of memory') from None

        stack.enter_context(patch.dict(os.environ, RETURN_AT_ONCE))
        yield call


def end_with_parent() -> None:
    """Let a process end when the one that started it ends, whatever the reason. Otherwise it would wait forever."""

    def wait() -> None:
        parent_process().join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=wait, daemon=True).start()


def peak_bytes(run: Callable[[], object]) -> int | None:
    """Run a function and measure its peak memory, beyond what stays in use after it.

    What a run leaves behind is left out, so the first training step, which makes the states of the optimizer, is no
    measure. On CUDA, the peak is that of PyTorch's allocations. On a CPU, it is that of the resident memory of the
    whole process, ``VmHWM``, which Linux resets on request; elsewhere than in a :func:`fresh_process`, freed memory may
    count, too.

    Returns:
        Bytes, or ``None`` on a CPU if the system is not Linux.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        run()
        peak = torch.cuda.max_memory_allocated()
        gc.collect()
        return peak - torch.cuda.memory_allocated()
    if not PEAKS:
        run()
        return None
    (PROCESS / 'clear_refs').write_text('5')
    run()
    peak = _status('VmHWM')
    gc.collect()
    return max(peak - _status('VmRSS'), 0)


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Let this process allocate what is available now, and no more, in the body of a ``with`` statement.

    What is available is the machine's, or what is left to the process's control group of version 2, such as a container
    or a job of Slurm. PyTorch then raises an error for an allocation that goes beyond. Without the limit, Linux grants
    it, and ends the process later. Only Linux has this limit; elsewhere, nothing happens. On CUDA, the memory that
    counts is the GPU's, and the driver maps much more of the host's than it uses, so that there is no limit either.
    """
    if not PEAKS or torch.cuda.is_available():
        yield
        return
    available = int(re.search(r'MemAvailable:\s+(\d+)', Path('/proc/meminfo').read_text())[1]) * 1024
    available = min([available, *left_to_groups()])
    limit = _status('VmData') + max(available - RESERVED, available // 2)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (min([limit, *(old for old in (soft, hard) if old >= 0)]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def left_to_groups(groups: Path = Path('/sys/fs/cgroup'), process: Path = PROCESS) -> Iterator[int]:
    """Yield the bytes that are left to each control group of a process whose memory is limited.

    Args:
        groups: Where Linux shows the groups of version 2. Those of version 1 are not read.
        process: The folder of the process in ``/proc``.
    """
    file = process / 'cgroup'
    found = re.search(r'^0::/(.*)', file.read_text(), re.M) if file.is_file() else None
    if not found:
        return
    name = PurePosixPath(found[1])
    files = [f'memory.{part}' for part in ('max', 'current', 'stat')]
    for group in (groups / part for part in (name, *name.parents)):
        limit = group / files[0]
        if all((group / file).is_file() for file in files) and (most := limit.read_text().strip()) != 'max':
            used = int((group / 'memory.current').read_text())
            cached = re.search(r'^inactive_file (\d+)', (group / 'memory.stat').read_text(), re.M)
            yield max(int(most) - used + int(cached[1] if cached else 0), 0)  # the cache gives way


def failure(error: Exception) -> str:
    """Describe an error in one line: ``OUT_OF_MEMORY``, the message of a :class:`UserError`, or its type and message.

    In the last case, its traceback is printed. A backward pass that fails leaves nodes in the queue of autograd's CPU
    thread, which keep the memory of the whole graph. A backward pass from an older node makes the queue drop them.
    """
    _OLDEST.backward(retain_graph=True)
    no_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    if no_memory:
        return OUT_OF_MEMORY
    if isinstance(error, UserError):
        return str(error)
    traceback.print_exception(error)
    first = str(error).strip().splitlines()[:1]
    return ': '.join([type(error).__name__, *first])


def _status(key: str) -> int:
    """A figure of this process in bytes."""
    return int(re.search(rf'{key}:\s+(\d+) kB', (PROCESS / 'status').read_text())[1]) * 1024
