"""The private names of mmengine, PyTorch and Python that this project uses, each with its reason.

Everything else goes through public names. One more private name is in ``backbones/private_names.py``, since
``backbones`` must not import this package. All were tried with mmengine 0.11.0rc3, torch 2.12.1 and torchvision
0.27.1, and a test looks up each name of :data:`PRIVATE` in the installed versions.
"""

from __future__ import annotations

import atexit
import math
import os
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.optim.scheduler import param_scheduler
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner, checkpoint
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.distributed.elastic.agent.server import RunResult, WorkerGroup
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.optim import Optimizer

# the only place of the class by which a program sees every operator, and of the flattening that goes with it
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: F401
from torch.utils._pytree import tree_leaves  # noqa: F401

# owner: the names that are methods of it or are set by its constructor
PRIVATE: dict[object, tuple[str, ...]] = {
    Runner: ('_resume', '_load_from', '_train_loop'),
    OptimWrapper: ('_accumulative_counts',),
    CheckpointHook: ('_save_checkpoint_with_step', '_save_best_checkpoint'),
    EpochBasedTrainLoop: ('_decide_current_val_interval',),
    IterBasedTrainLoop: ('_decide_current_val_interval',),
    param_scheduler: ('_ParamScheduler',),
    param_scheduler._ParamScheduler: ('_get_value',),
    GradScaler: ('_found_inf_per_device',),
    Config: ('_cfg_dict',),
    checkpoint: ('_process_mmcls_checkpoint',),
    LocalElasticAgent: ('_monitor_workers', '_remaining_restarts'),
    torch.ops.torchvision: ('_roi_align_backward',),
    nn.modules.batchnorm: ('_BatchNorm',),
    torch.utils: ('_python_dispatch', '_pytree'),
    threading: ('_shutdown',),
    atexit: ('_run_exitfuncs',),
    os: ('_exit',),
}

IMAGE_SIZE = '_input_size'


def is_resuming(runner: Runner) -> bool:
    """Whether the run goes on from a checkpoint. The Runner has no public name for its argument ``resume``."""
    return runner._resume


def checkpoint_of(runner: Runner) -> str | None:
    """The checkpoint that the run starts from. The Runner has no public name for its argument ``load_from``."""
    return runner._load_from


def set_checkpoint(runner: Runner, path: str | Path | None, resume: bool) -> None:
    """Let the run resume from a checkpoint, or begin from its weights, or from none.

    The Runner's own choice of the newest checkpoint is neither public nor checked for damage.
    """
    runner._resume, runner._load_from = resume, path and str(path)


def training_loop(runner: Runner) -> BaseLoop | dict | None:
    """The training loop as it is; the public ``runner.train_loop`` would build one where a test has none."""
    return runner._train_loop


def accumulated_steps(wrapper: OptimWrapper) -> int:
    """The number of iterations after which no optimizer holds gradients of an unfinished step."""
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return math.lcm(*(part._accumulative_counts for part in wrappers))


def found_inf(scaler: GradScaler, optimizer: Optimizer) -> bool:
    """Whether the scaler met gradients that are not finite; it says so publicly only by the step that it leaves out."""
    return any(found.item() for found in scaler._found_inf_per_device(optimizer).values())


def decide_val_interval(loop: BaseLoop) -> None:
    """Let a loop set ``val_interval`` by its ``dynamic_intervals``, as it does after each epoch or iteration."""
    loop._decide_current_val_interval()


def as_mapping(cfg: Config) -> Mapping:
    """The settings of a config as they are; ``cfg.to_dict()`` would copy them, and identity would be lost."""
    return cfg._cfg_dict


def rename_mmcls_weights(state: dict) -> dict:
    """The weights of an mmcls classifier under the names of its backbone, as mmengine's ``mmcls://`` loader does."""
    return checkpoint._process_mmcls_checkpoint(state)


def roi_align_backward(grad: Tensor, rois: Tensor, *arguments: object) -> Tensor:
    """The gradient of RoIAlign by its input, which torchvision computes only within its own autograd function."""
    return torch.ops.torchvision._roi_align_backward(grad, rois, *arguments)


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module is a batch norm. The class that mmengine puts in place of SyncBN has only this base."""
    return isinstance(module, nn.modules.batchnorm._BatchNorm)


def batch_sizes_in_pixels(model: nn.Module) -> list[list[int] | None]:
    """The sizes of the images of a batch that mmdet's BatchSyncRandomResize keeps for several iterations.

    mmdet is not imported here, so that :data:`PRIVATE` does not list the name; a test resumes a detector with it.
    """
    kept = [getattr(module, IMAGE_SIZE) for module in model.modules() if hasattr(module, IMAGE_SIZE)]
    return [size and list(size) for size in kept]


def set_batch_sizes_in_pixels(model: nn.Module, sizes: list[list[int] | None]) -> None:
    """Restore what :func:`batch_sizes_in_pixels` returned."""
    modules = [module for module in model.modules() if hasattr(module, IMAGE_SIZE)]
    for module, size in zip(modules, sizes, strict=True):
        setattr(module, IMAGE_SIZE, size and tuple(size))


def exit_without_finalizing(code: int) -> NoReturn:
    """End this process as Python does, but leave the interpreter as it is; files that are still open are not written.

    What Python does before it finalizes has no public name: it waits for the threads that are no daemons, and calls
    the functions of ``atexit``.
    """
    try:
        threading._shutdown()
        atexit._run_exitfuncs()
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
    except BaseException:  # nothing may keep the process from ending here
        code = code or 120  # Python's own code for output that cannot be written
    finally:
        os._exit(code)


class StepCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook with public names for the two places where it writes checkpoints."""

    def save_step(self, runner: Runner, step: int, meta: dict) -> None:
        """Save the checkpoint of an epoch or an iteration, and remove one that is not kept any more."""
        super()._save_checkpoint_with_step(runner, step, meta)

    def save_best_of(self, runner: Runner, metrics: Mapping) -> None:
        """Save the checkpoint if its scores are the best so far."""
        super()._save_best_checkpoint(runner, metrics)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        self.save_step(runner, step, meta)

    def _save_best_checkpoint(self, runner: Runner, metrics: Mapping) -> None:
        self.save_best_of(runner, metrics)


class WatchedAgent(LocalElasticAgent):
    """torchrun's agent, which tells a subclass how its processes are, and lets it decide about restarts."""

    def after_check(self, result: RunResult, worker_group: WorkerGroup) -> None:
        """Called after each look at the processes."""

    def remaining_restarts(self) -> int:
        """How many restarts are left."""
        return self._remaining_restarts

    def forbid_restarts(self) -> None:
        """End with the next failure."""
        self._remaining_restarts = 0

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result = super()._monitor_workers(worker_group)
        self.after_check(result, worker_group)
        return result


class ClosedFormScheduler(param_scheduler._ParamScheduler):
    """A scheduler whose values follow from the number of steps; mmengine has no public name for their computation."""

    def values(self) -> list[float]:
        """The values of all groups of parameters after ``last_step`` steps."""
        raise NotImplementedError

    def _get_value(self) -> list[float]:
        return self.values()
