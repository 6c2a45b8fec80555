"""Peaks of memory are those of known allocations, and too much memory is an error that can be caught."""

import re
from pathlib import Path

import pytest
import torch

from backbones.errors import UserError
from benchmarks.measuring import measure
from benchmarks.memory import OUT_OF_MEMORY, PEAKS, failure, limited_memory, peak_bytes

linux = pytest.mark.skipif(not PEAKS, reason='peaks are measured under Linux alone')
MIB = 2**20


def allocate(mib: int, pieces: int = 1) -> list[torch.Tensor]:
    return [torch.ones(mib * MIB // 4 // pieces) for _ in range(pieces)]


@linux
def test_the_peak_is_what_a_function_allocates_at_once_whether_in_one_piece_or_in_many():
    for _ in range(2):  # memory that the first run has freed must not hide the second one's
        for pieces in (1, 256):
            assert peak_bytes(lambda: allocate(128, pieces)) == pytest.approx(128 * MIB, abs=32 * MIB)  # noqa: B023


@linux
def test_what_is_allocated_one_after_the_other_does_not_add_up():
    for mib in (12, 48):  # the C library would by default hold pieces below 32 MiB
        peak = peak_bytes(lambda: [len(allocate(mib)) for _ in range(12)])  # noqa: B023
        assert (mib - 4) * MIB < peak < (2 * mib + 4) * MIB  # one is sometimes returned late


@linux
def test_what_stays_allocated_is_no_part_of_the_peak():
    kept = []
    assert peak_bytes(lambda: kept.append(allocate(128))) < 32 * MIB


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
