"""Times, their ratios, memory, and profiles of functions that are run side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from tqdm import tqdm

from .memory import failure

CUDA = torch.cuda.is_available()
DEVICE = 'cuda' if CUDA else 'cpu'
DTYPE = torch.bfloat16 if CUDA else torch.float32


def measure(
    runs: dict[str, Callable[[], object]], rounds: int, title: str, failures: dict[str, str] | None = None
) -> dict[str, dict]:
    """Run each candidate once a round, in turn, after one round of warm-up.

    Args:
        runs: The candidates by name. The first is the one that all are compared with.
        rounds: How many rounds are measured.
        title: Title of the progress bar.
        failures: Gets what :func:`~.memory.failure` says of a candidate that fails, by its name; the others go on.
            Without this dict, the first error is raised.

    Returns:
        The results of :func:`compare` by candidate. On CUDA also ``peak_gib``, the peak memory of a run in GiB, beyond
        what was allocated before it.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    peaks = {}
    for number in tqdm(range(-1, rounds), desc=title, leave=False):
        for name in list(seconds):
            try:
                taken, peak = _run(runs[name])
            except Exception as error:
                if failures is None:
                    raise
                failures[name] = failure(error)
                del seconds[name]
                continue
            if peak is not None:
                peaks[name] = peak / 2**30
            if number >= 0:
                seconds[name].append(taken)
    results = compare(seconds) if seconds else {}
    for name, result in results.items():
        if name in peaks:
            result['peak_gib'] = peaks[name]
    return results


def _run(run: Callable[[], object]) -> tuple[float, int | None]:
    """Run once; return the seconds and, on CUDA, the bytes of the peak memory."""
    if CUDA:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        allocated = torch.cuda.memory_allocated()  # by the weights and optimizers of all candidates
    start = time.perf_counter()
    run()
    if not CUDA:
        return time.perf_counter() - start, None
    torch.cuda.synchronize()
    return time.perf_counter() - start, torch.cuda.max_memory_allocated() - allocated


def compare(seconds: dict[str, list[float]]) -> dict[str, dict]:
    """Compare the times of each candidate with the first candidate's, round by round.

    Args:
        seconds: The times of each candidate, one for each round.

    Returns:
        For each candidate ``ratio``, ``low`` and ``high``, the median, the least and the greatest of the rounds'
        ratios, and ``seconds``, the times.
    """
    first = next(iter(seconds.values()))
    results = {}
    for name, times in seconds.items():
        ratios = [mine / reference for mine, reference in zip(times, first, strict=True)]
        results[name] = dict(ratio=statistics.median(ratios), low=min(ratios), high=max(ratios), seconds=times)
    return results


def profile(run: Callable[[], object], seconds: list[float]) -> dict[str, object]:
    """Profile one run.

    Args:
        run: The function.
        seconds: Times that were measured for it without the profiler.

    Returns:
        ``profile``, the shares of the ten operators (kernels on CUDA) that take the most time. On CUDA also ``busy``,
        the time of all kernels over the median of ``seconds``: in the rest of the time, the GPU waits for the host.
    """
    with torch.profiler.profile() as profiler:
        run()
        if CUDA:
            torch.cuda.synchronize()
    device = torch.autograd.DeviceType.CUDA if CUDA else torch.autograd.DeviceType.CPU
    events = [e for e in profiler.key_averages() if e.device_type == device and not e.is_user_annotation]
    times = {e.key: e.self_device_time_total if CUDA else e.self_cpu_time_total for e in events}  # microseconds
    total = sum(times.values())
    largest = sorted(times, key=times.get, reverse=True)[:10]
    result: dict[str, object] = dict(profile={name: times[name] / total for name in largest})
    if CUDA:
        result['busy'] = total / 1e6 / statistics.median(seconds)
    return result
