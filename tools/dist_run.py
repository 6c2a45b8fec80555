#!/usr/bin/env python
"""torchrun, for dist_train.sh and dist_test.sh, that says in one line what it answers by a traceback or by nothing."""

import doctor  # noqa: F401  (says what to type if an import below fails)
import os
import signal
import sys
from collections.abc import Mapping

from torch.distributed import DistNetworkError, run
from torch.distributed.elastic.agent.server import RunResult, WorkerGroup
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher import api


class Agent(LocalElasticAgent):
    """torchrun's, which says why it starts all processes again, and does not if one has ended by its own will."""

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result = super()._monitor_workers(worker_group)
        left, of = self._remaining_restarts, worker_group.spec.max_restarts
        if result.is_failed() and left:
            if any(f.exitcode > 0 and not os.path.isfile(f.error_file) for f in result.failures.values()):
                self._remaining_restarts = 0  # asked to leave, or an error of the user's, which would only repeat
            else:
                rank, failure = first_lost(result.failures)
                reason = failure.signal_name() if failure.exitcode < 0 else failure.message['message'].split('\n')[0]
                message = f'process {rank} was ended by {reason}: restart {of - left + 1} of {of}'
                print(message, file=sys.stderr, flush=True)
        return result


def first_lost(failures: Mapping[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """The process, with its rank, whose loss made the others fail or be ended (by SIGTERM, then by SIGKILL).

    Times are in whole seconds: an exception of the next process may seem to be older than the kill that it follows.
    """

    def time(failure: ProcessFailure) -> int:
        return failure.timestamp - 2 * (failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM)

    return min(failures.items(), key=lambda item: time(item[1]))


def main() -> None:
    api.LocalElasticAgent = Agent
    try:
        run.main()
    except DistNetworkError as error:
        sys.exit(f'error: the processes cannot meet: set PORT to a port that is free on MASTER_ADDR [{error}]')
    except ValueError as error:  # of NNODES or NODE_RANK
        sys.exit(f'error: {error}')
    except SignalException:
        sys.exit(os.EX_TEMPFAIL)  # the processes were asked to save and leave
    except ChildFailedError as error:
        rank, failure = first_lost(error.failures)
        if failure.exitcode > 0:
            sys.exit(failure.exitcode)  # it has said why
        sys.exit(
            f'error: process {rank} was ended by {failure.signal_name()}; if that is SIGKILL, look whether the machine '
            'ran out of memory'
        )


if __name__ == '__main__':
    main()
