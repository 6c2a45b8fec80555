#!/usr/bin/env python
"""torchrun for dist_train.sh and dist_test.sh; it ends with a message of one line instead of a traceback."""

import doctor  # noqa: F401  (says what to type if an import below fails)
import os
import signal
import sys
from collections.abc import Mapping

from torch.distributed import DistNetworkError, run
from torch.distributed.elastic.agent.server import RunResult, WorkerGroup
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher import api

from mmengine_plugin.compat.private_names import WatchedAgent
from mmengine_plugin.engine.signals import EXIT_CODE


class Agent(WatchedAgent):
    """torchrun's agent. It reports each restart, and does not restart if a process has exited on purpose."""

    def after_check(self, result: RunResult, worker_group: WorkerGroup) -> None:
        """Report the restart that follows a failure, or forbid it."""
        left, total = self.remaining_restarts(), worker_group.spec.max_restarts
        if not result.is_failed() or left == 0:
            return
        failures = result.failures
        if any(failure.exitcode > 0 and not os.path.isfile(failure.error_file) for failure in failures.values()):
            self.forbid_restarts()  # a process was asked to stop, or a user's error ended it, which would occur again
            return
        rank, failure = first_lost(failures)
        reason = failure.signal_name() if failure.exitcode < 0 else failure.message['message'].split('\n')[0]
        message = f'process {rank} was ended by {reason}: restart {total - left + 1} of {total}'
        print(message, file=sys.stderr, flush=True)


def first_lost(failures: Mapping[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """Find the process that was lost first, with its rank; the others failed or were ended because of it."""

    def time(failure: ProcessFailure) -> int:
        # Times are in whole seconds: an exception that follows a kill may seem to come before it. SIGTERM does not
        # count as a kill, since torchrun ends the other processes by it.
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
            return failure.timestamp - 2
        return failure.timestamp

    return min(failures.items(), key=lambda item: time(item[1]))


def main() -> None:
    api.LocalElasticAgent = Agent
    try:
        run.main()
    except DistNetworkError as error:
        sys.exit(f'error: the processes cannot meet: set PORT to a port that is free on MASTER_ADDR [{error}]')
    except ValueError as error:  # an invalid NNODES or NODE_RANK
        sys.exit(f'error: {error}')
    except SignalException:
        sys.exit(EXIT_CODE)  # the processes were asked to save and exit
    except ChildFailedError as error:
        rank, failure = first_lost(error.failures)
        if failure.exitcode > 0:
            sys.exit(failure.exitcode)  # the process has printed the reason
        sys.exit(
            f'error: process {rank} was ended by {failure.signal_name()}; if that is SIGKILL, check whether the '
            'machine ran out of memory'
        )


if __name__ == '__main__':
    main()
