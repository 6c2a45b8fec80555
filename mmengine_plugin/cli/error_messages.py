"""The end of a program: one message for an error that a user can cause, and the right exit code."""

from __future__ import annotations

import re
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from mmengine.config import Config
from torch import distributed as dist
from torch.distributed.elastic.multiprocessing.errors import record

from backbones.errors import UserError, did_you_mean

from ..compat.private_names import exit_without_finalizing
from .cfg_options import REGISTRIES
from .encoding import use_utf8
from .unknown_arguments import NEW_TYPES, explain_arguments, key_of_type

_config: Config | None = None  # what the program has read last


def note_config(cfg: Config) -> None:
    """Note the config of the program, in which messages about errors name a place."""
    global _config
    _config = cfg


def run(main: Callable[[], None]) -> None:
    """Call a program's ``main``. A :class:`UserError` is printed as one message, and the exit code is then 1."""
    use_utf8()
    code: object = 0
    try:
        record(call_main)(main)  # it writes the file by which tools/dist_run.py tells a crash from a user's error
    except SystemExit as error:
        code = error.code
    except Exception:
        if not in_group():
            raise
        traceback.print_exc()
        code = 1
    if in_group():
        end_process(code)
    if code:
        sys.exit(code)


def in_group() -> bool:
    """Whether this process belongs to a group of processes."""
    return dist.is_available() and dist.is_initialized()


def end_process(code: object) -> NoReturn:
    """End one of several processes as ``sys.exit(code)`` would, but without finalizing the interpreter.

    While Python finalizes, it ends every thread that asks for the interpreter lock. gloo's threads abort the process
    instead. They outlive ``destroy_process_group`` if anything still holds the group, as a model in
    DistributedDataParallel does.
    """
    if not code:
        dist.destroy_process_group()  # NCCL warns otherwise; after an error, the other processes may not answer
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
    exit_without_finalizing(code if isinstance(code, int) else int(code is not None))


def call_main(main: Callable[[], None]) -> None:
    """Call a program's ``main``, and exit with one message after an error that a user can cause."""
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
        place = f'{key}: ' if _config and (key := key_of_type(name, _config)) else ''
        if name in NEW_TYPES:
            sys.exit(f'error: {place}{name} is a transform of mmdet 2.x or mmseg 0.x: write {NEW_TYPES[name]}')
        known = {key for r in REGISTRIES for scope in (r, *r.children.values()) for key in scope.module_dict}
        sys.exit(
            f'error: {place}{name} is not registered in {registry}{did_you_mean(name, known)}. If the class is your '
            "own, name its module in custom_imports; a config's custom_imports replaces that of its base, so list all "
            'imports there'
        )
    except TypeError as error:
        explained = _config and explain_arguments(error, _config)
        if not explained:
            raise
        sys.exit(f'error: {explained}')
    except ImportError as error:
        if not str(error).startswith('Please run "pip install'):  # of a visualizer's backend
            raise
        sys.exit(f'error: {error}, or remove its backend from visualizer.vis_backends')
