"""Sharding: each process holds its part of the weights, gradients and optimizer state, and checkpoints remain whole."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain

import torch
from mmengine.device import get_device
from mmengine.dist import broadcast, get_world_size, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.model import BaseAveragedModel, revert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import MODEL_WRAPPERS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from backbones.errors import UserError

from .optimizer_wrappers import optimizer_wrappers


@MODEL_WRAPPERS.register_module()
class ShardedDataParallel(nn.Module):
    """Data parallelism whose processes share the weights, gradients and optimizer state among themselves.

    It uses PyTorch's FSDP2 (``fully_shard``). mmengine's wrapper uses FSDP1, which is not exact here: it shards a model
    before its weights are initialised, loaded and copied from the main process, joins parameters to flat ones, and
    puts its own parts into their names. FSDP2 keeps each parameter, its name and its group in the optimizer, and a
    model can be sharded after all weights and optimizer states are loaded: :func:`shard` does so when the training
    begins. Until then, and in a test, this wrapper holds the whole model.

    Each block of a backbone (an entry of a module's ``blocks``) is gathered for its forward and for its backward pass
    and then freed. The rest of the model is gathered once for each step. For a validation, all of it is gathered
    once, since processes may have different numbers of images. Buffers, such as the statistics of batch norms, belong
    to each process, as with DDP here. Gradients are averaged in each iteration, also in those that accumulate.

    A parameter that takes no part in a step has a gradient of zeros, so that the processes always exchange the same
    parameters. DDP ends with an error instead.

    Args:
        module: The model.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module if torch.cuda.is_available() else without_sync_batchnorm(module)
        self.gradients: dict[str, Tensor] = {}  # whole ones by name, within `whole_states`

    def shard(self) -> None:
        """Keep only this process's part of the weights, which are those of the main process."""
        for tensor in chain(self.module.parameters(), self.module.buffers()):
            broadcast(tensor.data)
        shard_module(self.module)
        self.module.register_forward_hook(_begin_gradients)

    def is_sharded(self) -> bool:
        """Whether :meth:`shard` was called."""
        return isinstance(self.module, FSDPModule)

    def train_step(self, data: dict, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """Train the model by one batch."""
        return self.module.train_step(data, optim_wrapper)

    def val_step(self, data: dict) -> list:
        """Predict one batch of a validation."""
        return self.module.val_step(data)

    def test_step(self, data: dict) -> list:
        """Predict one batch of a test."""
        return self.module.test_step(data)

    def forward(self, *args: object, **kwargs: object) -> object:
        """Call the model."""
        return self.module(*args, **kwargs)

    def train(self, mode: bool = True) -> ShardedDataParallel:
        """Set the training mode; in evaluation mode, each process has the whole model until :meth:`reshard`."""
        super().train(mode)
        for part in self._parts():
            if part is not self.module:
                part.set_reshard_after_forward(mode, recurse=False)
            if not mode:
                part.unshard()
        return self

    def reshard(self) -> None:
        """Free what the other processes hold."""
        for part in self._parts():
            part.reshard()

    def _parts(self) -> list[FSDPModule]:
        return [module for module in self.module.modules() if isinstance(module, FSDPModule)]


class EndWholeModelHook(Hook):
    """After a validation, frees what the other processes hold, before any hook changes the weights."""

    priority = 'HIGHEST'

    def after_val_epoch(self, runner: Runner, metrics: Mapping | None = None) -> None:
        """Free the parts of the other processes."""
        runner.model.reshard()


def without_sync_batchnorm(module: nn.Module) -> nn.Module:
    """Turn SyncBN, which needs GPUs, into BN, and log it."""
    if not any(isinstance(m, nn.SyncBatchNorm) for m in module.modules()):
        return module
    print_log('No GPU: SyncBN becomes BN, which sees the images of one process only', 'current', logging.WARNING)
    return revert_sync_batchnorm(module)


def shard_module(module: nn.Module) -> None:
    """Shard a module in place: each block is a part of its own, and the rest is one part."""
    mesh: DeviceMesh = init_device_mesh(get_device(), (get_world_size(),))
    lists = (getattr(part, 'blocks', None) for part in module.modules())
    blocks = [block for part in lists if isinstance(part, nn.Sequential | nn.ModuleList) for block in part]
    for block in reversed(list(dict.fromkeys(blocks))):  # inner ones first
        fully_shard(block, mesh=mesh, reshard_after_forward=True)
    fully_shard(module, mesh=mesh, reshard_after_forward=False)


def _begin_gradients(module: nn.Module, inputs: object, outputs: object) -> None:
    """Let the gradients of a step begin with zeros: those of all processes must have the same parameters."""
    if module.training and torch.is_grad_enabled():
        for parameter in module.parameters():
            if parameter.requires_grad and parameter.grad is None and not isinstance(parameter, DTensor):
                parameter.grad = torch.zeros_like(parameter)


def shard(runner: Runner) -> None:
    """Shard the model of a run, its average and its optimizers, if the run has a :class:`ShardedDataParallel`.

    All processes must call this, with the same optimizer state.

    Raises:
        UserError: If a parameter is a single number without a dimension, which cannot be divided.
    """
    wrapper = runner.model
    if not isinstance(wrapper, ShardedDataParallel) or wrapper.is_sharded():
        return
    before = dict(wrapper.module.named_parameters())
    if scalars := [name for name, parameter in before.items() if parameter.ndim == 0]:
        raise UserError(
            f'model_wrapper_cfg: {scalars[0]} is a single number, which cannot be divided among processes: remove '
            'model_wrapper_cfg, and save memory by model.backbone.with_cp=True'
        )
    wrapper.shard()
    replaced = {before[name]: parameter for name, parameter in wrapper.module.named_parameters()}
    for optimizer_wrapper in optimizer_wrappers(runner):
        _shard_optimizer(optimizer_wrapper.optimizer, replaced)
    for average in _averages(runner):
        shard_module(average.module)
        # what the average's constructor has kept of its parameters before they were sharded
        kept = average.module.state_dict() if average.update_buffers else dict(average.module.named_parameters())
        average.avg_parameters = kept
    runner.register_hook(EndWholeModelHook())
    runner.logger.info(f'Weights, gradients and optimizer state are divided among {get_world_size()} processes')


def _averages(runner: Runner) -> list[BaseAveragedModel]:
    return [hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook)]


def _shard_optimizer(optimizer: Optimizer, replaced: Mapping[nn.Parameter, nn.Parameter]) -> None:
    for group in optimizer.param_groups:
        group['params'] = [replaced[parameter] for parameter in group['params']]
    states = dict(optimizer.state)
    optimizer.state.clear()
    for parameter, state in states.items():
        optimizer.state[replaced[parameter]] = {
            key: own_part(value, replaced[parameter]) if _has_shape_of(value, parameter) else value
            for key, value in state.items()
        }


def _has_shape_of(value: object, parameter: nn.Parameter) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


def own_part(whole: Tensor, parameter: nn.Parameter) -> Tensor:
    """This process's part of a tensor that belongs to a parameter; the tensor itself if the parameter is whole."""
    whole = whole.to(parameter)
    if not isinstance(parameter, DTensor):
        return whole
    return distribute_tensor(whole, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _gather(tensors: Mapping[Hashable, object]) -> dict[Hashable, Tensor]:
    """The whole of each sharded tensor, on the CPU and in the main process only; all processes must call this."""
    wholes = {}
    for key, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            whole = tensor.detach().full_tensor()
            if is_main_process():
                wholes[key] = whole.cpu()
    return wholes


@contextmanager
def whole_states(runner: Runner) -> Iterator[None]:
    """Let the main process save whole states: in this context, state dicts and gradients are not sharded.

    Only the main process saves a checkpoint, but all processes must enter this context.
    """
    wrapper = runner.model
    if not isinstance(wrapper, ShardedDataParallel) or not wrapper.is_sharded():
        yield
        return
    wrapper.reshard()
    handles = [_whole_module(module) for module in (wrapper.module, *_averages(runner))]
    handles += [_whole_optimizer(part.optimizer) for part in optimizer_wrappers(runner)]
    wrapper.gradients = _gather({name: parameter.grad for name, parameter in wrapper.module.named_parameters()})
    try:
        yield
    finally:
        wrapper.gradients = {}
        for handle in handles:
            handle.remove()


def _whole_module(module: nn.Module) -> torch.utils.hooks.RemovableHandle:
    weights = _gather(module.state_dict())

    def put(module: nn.Module, state: dict, prefix: str, metadata: dict) -> None:
        state.update({prefix + name: weight for name, weight in weights.items()})

    return module.register_state_dict_post_hook(put)


def _whole_optimizer(optimizer: Optimizer) -> torch.utils.hooks.RemovableHandle:
    wholes = {number: _gather(state) for number, state in optimizer.state_dict()['state'].items()}

    def put(optimizer: Optimizer, state: dict) -> None:
        state['state'] = {number: values | wholes[number] for number, values in state['state'].items()}

    return optimizer.register_state_dict_post_hook(put)
