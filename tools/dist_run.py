#!/usr/bin/env python
"""torchrun, for dist_train.sh and dist_test.sh, that ends in one line where torchrun ends in its own traceback."""

import doctor  # noqa: F401  (says what to type if an import below fails)
import os
import sys

from torch.distributed import DistNetworkError, run
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main() -> None:
    try:
        run.main()
    except DistNetworkError as error:
        sys.exit(f'error: the processes cannot meet: set PORT to a port that is free on MASTER_ADDR [{error}]')
    except ValueError as error:  # of NNODES or NODE_RANK
        sys.exit(f'error: {error}')
    except SignalException:
        sys.exit(os.EX_TEMPFAIL)  # the processes were asked to save and leave
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:
            sys.exit(failure.exitcode)  # it has said why
        sys.exit(
            f'error: process {rank} was ended by {failure.signal_name()}; if that is SIGKILL, look whether the machine '
            'ran out of memory'
        )


if __name__ == '__main__':
    main()
