"""All processes of a run learn of a signal in the same iteration, and ask each other about once a second."""

import multiprocessing
import signal
import time

import pytest
import torch

from mmengine_plugin.engine.signals import SignalPoll

CALLS, SENT = 150, 60  # of 20 ms; the call in which one process has received the signal


def _poll(rank: int, port: int, answers: multiprocessing.SimpleQueue) -> None:
    torch.distributed.init_process_group('gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    poll, exchanges, known = SignalPoll(), [], []
    for call in range(CALLS):
        time.sleep(0.02)
        known.append(poll.ask(signal.SIGTERM if rank == 1 and call >= SENT else 0))
        if poll.calls == 0:
            exchanges.append(call)
    answers.put((known, exchanges))


@pytest.fixture
def polled(free_port):
    """What the two processes learned in each call, and in which calls they exchanged it."""
    context = multiprocessing.get_context('fork')
    answers = context.SimpleQueue()
    processes = [context.Process(target=_poll, args=(rank, free_port, answers)) for rank in range(2)]
    for process in processes:
        process.start()
    results = [answers.get() for _ in processes]
    for process in processes:
        process.join()
    return results


def test_processes_learn_of_a_signal_in_the_same_call_within_seconds(polled):
    (one, exchanges), (other, other_exchanges) = polled
    assert one == other and exchanges == other_exchanges
    first = one.index(signal.SIGTERM)
    assert SENT <= first <= SENT + 100  # 2 seconds
    assert set(one[:first]) == {0} and set(one[first:]) == {signal.SIGTERM}
    assert len(exchanges) < 15


def test_a_single_process_knows_at_once():
    poll = SignalPoll()
    assert [poll.ask(number) for number in (0, signal.SIGINT, signal.SIGINT)] == [0, signal.SIGINT, signal.SIGINT]
