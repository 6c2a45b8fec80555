"""Peaks of memory are those of known allocations, and too much memory is an error that can be caught."""

import os
import re
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from backbones.errors import UserError
from benchmarks.measuring import measure
from benchmarks.memory import OUT_OF_MEMORY, PEAKS, failure, fresh_process, left_to_groups, limited_memory, peak_bytes
from tests.conftest import ROOT

linux = pytest.mark.skipif(not PEAKS, reason='peaks are measured under Linux alone')
MIB = 2**20


def allocate(mib: int, pieces: int = 1) -> list[torch.Tensor]:
    return [torch.ones(mib * MIB // 4 // pieces) for _ in range(pieces)]


def peaks_of_allocations() -> dict:
    """Peaks in MiB; the functions' names say what they should be."""
    kept = []
    allocate(256, 256)  # memory that has been freed must not hide what follows
    runs = dict(
        one_piece=lambda: allocate(128),
        many_pieces=lambda: allocate(128, 256),
        medium_one_after_the_other=lambda: [len(allocate(12)) for _ in range(12)],
        large_one_after_the_other=lambda: [len(allocate(48)) for _ in range(12)],
        stays=lambda: kept.append(allocate(128)),
    )
    return {name: peak_bytes(run) / MIB for name, run in runs.items()}


@linux
def test_the_peak_is_what_a_function_has_allocated_at_once():
    with fresh_process() as call:
        found = call(peaks_of_allocations)
    expected = dict(
        one_piece=128, many_pieces=128, medium_one_after_the_other=12, large_one_after_the_other=48, stays=0
    )
    assert found == pytest.approx(expected, abs=4)


def test_a_process_that_ends_is_an_error_and_the_next_call_runs_in_another_one():
    with fresh_process() as call:
        first = call(os.getpid)
        with pytest.raises(UserError, match='was ended, perhaps for lack of memory'):
            call(os._exit, 1)
        assert call(os.getpid) not in (first, os.getpid())


def test_the_process_ends_with_the_one_that_started_it():
    program = 'import os, time; from benchmarks.memory import fresh_process\n'
    program += 'with fresh_process() as call: print(call(os.getpid), flush=True); time.sleep(999)'
    parent = subprocess.Popen([sys.executable, '-c', program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    os.kill(child, 0)  # it is there
    parent.kill()
    parent.communicate(timeout=60)  # waits for all that can write to the pipe, and the child could


@linux
def test_beyond_the_memory_of_the_machine_an_allocation_fails():
    """The pages are never touched, so that Linux grants any number of these allocations without the limit."""
    gib = int(re.search(r'MemTotal:\s+(\d+)', Path('/proc/meminfo').read_text())[1]) // MIB + 1

    def allocate_more_than_there_is():
        return [torch.empty(2**28) for _ in range(2 * gib)]

    with limited_memory():
        with pytest.raises(RuntimeError) as raised:
            allocate_more_than_there_is()
        assert failure(raised.value) == OUT_OF_MEMORY
        torch.empty(2**26)  # a smaller one is granted
    allocate_more_than_there_is()


@linux
def test_what_is_left_to_a_container_is_what_its_groups_leave(tmp_path):
    """The groups of version 2, as Linux shows them; one of version 1 has a controller between its colons."""
    process, groups = tmp_path / 'process', tmp_path / 'groups'
    for name, most, used, cached in (
        ('job', '1000', 700, 100),
        ('job/step', 'max', 600, 50),
        ('job/step/a', '90', 80, 0),
    ):
        (groups / name).mkdir(parents=True)
        (groups / name / 'memory.max').write_text(f'{most}\n')
        (groups / name / 'memory.current').write_text(f'{used}\n')
        (groups / name / 'memory.stat').write_text(f'anon 5\ninactive_file {cached}\nactive_file 3\n')
    process.mkdir()
    found = {}
    for text in ('0::/job/step/a', '0::/job/step', '0::/', '4:memory:/job', '0::/../other', '4:memory:/job\n0::/job'):
        (process / 'cgroup').write_text(f'{text}\n')
        found[text] = list(left_to_groups(groups, process))
    alone = {'0::/': [], '4:memory:/job': [], '0::/../other': []}
    assert found == {'0::/job/step/a': [10, 400], '0::/job/step': [400], '4:memory:/job\n0::/job': [400], **alone}
    assert list(left_to_groups(groups, tmp_path / 'none')) == []


class Identity(torch.autograd.Function):
    """The identity. Its node of the graph holds an object; without one, its backward pass finds no memory."""

    @staticmethod
    def forward(ctx, x, held):
        ctx.held = held
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        if ctx.held is None:
            raise MemoryError
        return grad, None


def fail_in_backward(report: Callable) -> weakref.ref:
    """Fail while one branch of a graph is still to come, and return a reference to what that branch holds."""
    held, x = threading.Event(), torch.ones(3, requires_grad=True)
    try:
        (Identity.apply(x, held).sum() + Identity.apply(x, None).sum()).backward()  # the later one comes first
    except MemoryError as error:
        report(error)
    return weakref.ref(held)


def test_the_graph_of_a_backward_pass_that_failed_is_freed_when_the_failure_is_reported():
    assert fail_in_backward(failure)() is None
    kept = fail_in_backward(str)
    assert kept() is not None
    assert failure(MemoryError()) == OUT_OF_MEMORY and kept() is None


def test_a_candidate_that_fails_is_named_and_the_others_go_on(capsys):
    calls = []

    def fail_later():
        calls.append(1)
        if len(calls) == 2:
            raise ValueError('no luck\nat all')

    def fail_at_once():
        raise MemoryError

    runs = dict(large=fail_at_once, later=fail_later, fine=lambda: None, other=lambda: None)
    failures = {}
    results = measure(runs, 3, '', failures)
    assert failures == dict(large=OUT_OF_MEMORY, later='ValueError: no luck')
    assert 'ValueError: no luck' in capsys.readouterr().err  # its traceback
    assert list(results) == ['fine', 'other'] and results['fine']['ratio'] == 1
    assert all(len(result['seconds']) == 3 for result in results.values())
    with pytest.raises(ZeroDivisionError):
        measure(dict(fine=runs['fine'], wrong=lambda: 1 / 0), 3, '')
    assert measure(dict(wrong=lambda: 1 / 0), 3, '', failures) == {} and 'ZeroDivisionError' in failures['wrong']


def test_an_error_for_the_user_is_given_in_its_own_words(capsys):
    assert failure(UserError('name another size')) == 'name another size'
    assert failure(MemoryError()) == OUT_OF_MEMORY != failure(RuntimeError('shapes differ'))
    assert 'name another size' not in capsys.readouterr().err
