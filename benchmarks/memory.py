"""The memory of a CPU: what a function takes at its peak, and a limit that turns too much of it into an error."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import resource
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from backbones.errors import UserError

PROCESS = Path('/proc/self')
PEAKS = (PROCESS / 'clear_refs').exists()  # Linux alone can reset the peak of a process
OUT_OF_MEMORY = 'out of memory'
MAPPED = (
    2**16
)  # bytes from which on GNU's C library maps an allocation by itself, and returns it as soon as it is freed
RESERVED = 2**30  # bytes that are left to the rest of the machine


def peak_bytes(run: Callable[[], object]) -> int | None:
    """Run a function and measure its peak memory, beyond what stays in use after it.

    The peak is that of the resident memory of the whole process, ``VmHWM``, which Linux resets on request. So that
    freed memory does not count, the C library returns it at once from the first call on, but for small pieces. What
    stays are the weights and, after a first training step, the states of the optimizer.

    Returns:
        Bytes, or ``None`` if the system is not Linux.
    """
    if not PEAKS:
        run()
        return None
    return_free_memory()  # else a run would use again what an earlier one has freed, and not raise the peak
    (PROCESS / 'clear_refs').write_text('5')
    run()
    peak = _status('VmHWM')
    return_free_memory()
    return max(peak - _status('VmRSS'), 0)


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Let this process allocate what the machine has available now, and no more, in the body of a ``with`` statement.

    PyTorch then raises an error for an allocation that goes beyond. Without the limit, Linux grants it, and ends the
    process later. Only Linux has this limit; elsewhere, nothing happens.
    """
    if not PEAKS:
        yield
        return
    available = int(re.search(r'MemAvailable:\s+(\d+)', Path('/proc/meminfo').read_text())[1]) * 1024
    limit = _status('VmData') + max(available - RESERVED, RESERVED)
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (min([limit, *(old for old in (soft, hard) if old >= 0)]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def failure(error: Exception) -> str:
    """Describe an error in one line: ``OUT_OF_MEMORY``, the message of a :class:`UserError`, or its type and message.

    In the last case, its traceback is printed.
    """
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


def return_free_memory() -> None:
    """Return to the system what Python and the C library hold for later, and let the latter hold no large pieces."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, 'malloc_trim'):  # the C library may be another one than GNU's
        libc.mallopt(-3, MAPPED)  # M_MMAP_THRESHOLD of malloc.h
        libc.malloc_trim(0)
