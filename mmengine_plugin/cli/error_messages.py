"""Answers to the errors that a user can cause: one message instead of a traceback."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from backbones.errors import UserError, did_you_mean

from .cfg_options import REGISTRIES


@record  # writes the error to the file by which tools/dist_run.py tells a crash from a user's error
def run(main: Callable[[], None]) -> None:
    """Call a program's ``main``. A :class:`UserError` is printed as one message, and the exit code is then 1."""
    try:
        main()
    except UserError as error:
        # an error in a data loader's worker comes here with the text of its traceback before the message
        sys.exit(f'error: {str(error).rpartition("errors.UserError: ")[2].rstrip()}')
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except FileNotFoundError as error:
        if not error.filename:  # raised again for a worker, with the worker's traceback
            raise
        sys.exit(f'error: {error.filename} does not exist (seen from {Path.cwd()})')
    except KeyError as error:
        unregistered = re.match(r"'(\S+) is not in the (\S+) registry", str(error))
        if not unregistered:
            raise
        name, registry = unregistered.groups()
        known = {key for r in REGISTRIES for scope in (r, *r.children.values()) for key in scope.module_dict}
        sys.exit(
            f'error: {name} is not registered in {registry}{did_you_mean(name, known)}. If the class is your own, name '
            "its module in custom_imports; a config's custom_imports replaces that of its base, so list all imports "
            'there'
        )
