"""Checks of single settings of a config, before anything is built from it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping

from mmengine.config import Config
from mmengine.registry import FUNCTIONS, LOOPS, MODELS

from backbones.errors import UserError, did_you_mean

SHARDING = "model_wrapper_cfg=dict(type='MMFullyShardedDataParallel', use_orig_params=True)"
OUR_LOOPS = ('ResumableEpochLoop', 'ResumableIterLoop')


def has_our_backbone(cfg: Config) -> bool:
    """Whether the model's backbone is one of :mod:`backbones`."""
    backbone = (cfg.model.get('backbone') or {}).get('type')  # a class or its registered name
    if isinstance(backbone, str):
        backbone = MODELS.get(backbone)
    return getattr(backbone, '__module__', '').startswith('backbones.')


def check_functions(cfg: Config) -> None:
    """Check that the functions that the data loaders name are registered; mmengine ends in an assertion.

    Raises:
        UserError: If one is not; it names the nearest one.
    """
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader') or {}
        for key in ('worker_init_fn', 'collate_fn'):
            setting = loader.get(key)
            name = setting.get('type') if isinstance(setting, Mapping) else None  # it may be a function
            if isinstance(name, str) and FUNCTIONS.get(name) is None:
                raise UserError(
                    f'{split}_dataloader.{key}.type={name} is not registered in FUNCTIONS'
                    f'{did_you_mean(name, FUNCTIONS.module_dict)}'
                )


def check_constructor(cfg: Config) -> None:
    """Refuse mmdet's and mmseg's constructor of layer-wise learning rates, which does not know our backbones.

    Raises:
        UserError: If a config of one of our backbones names it; the message has the setting to use instead.
    """
    constructor = (cfg.get('optim_wrapper') or {}).get('constructor')
    upstreams = ('LearningRateDecayOptimizerConstructor', 'LayerDecayOptimizerConstructor')
    if isinstance(constructor, str) and constructor.split('.')[-1] in upstreams and has_our_backbone(cfg):
        rules = cfg.optim_wrapper.get('paramwise_cfg') or {}
        rate = rules.get('decay_rate', rules.get('layer_decay_rate', 0.7))  # the second name is BEiT's
        raise UserError(
            f'optim_wrapper.constructor={constructor} does not know {cfg.model.backbone.type}: set '
            "optim_wrapper.constructor='LayerDecayOptimWrapperConstructor' with "
            f'paramwise_cfg=dict(decay_rate={rate}, '
            'norm_decay_mult=0.0, bias_decay_mult=0.0); it derives num_layers from the backbone'
        )


def refuse_other_runners(cfg: Config) -> None:
    """Refuse a config that asks for mmengine's FlexibleRunner or for DeepSpeed.

    The hooks and loops here are for mmengine's Runner. DeepSpeed writes pickles, which are not read here.

    Raises:
        UserError: If ``runner_type`` is not ``'Runner'``, if there is a ``strategy``, or if the wrapper of the model or
            of the optimizer is DeepSpeed's.
    """
    found = []
    if cfg.get('runner_type', 'Runner') != 'Runner':
        found.append(f'runner_type={cfg.runner_type}')
    if cfg.get('strategy'):
        found.append('strategy')
    for key in ('model_wrapper_cfg', 'optim_wrapper'):
        if 'DeepSpeed' in str((cfg.get(key) or {}).get('type')):
            found.append(f'{key}.type={cfg[key].type}')
    if found:
        raise UserError(
            f"{cfg.filename}: {' and '.join(found)} cannot be used: only mmengine's Runner is supported, and "
            'checkpoints of DeepSpeed are pickles. Remove it: several processes train by DDP. To save memory, set '
            'optim_wrapper.accumulative_counts and model.backbone.with_cp=True, or divide the model among the '
            f'processes by {SHARDING}'
        )


def check_sharding(cfg: Config) -> None:
    """Check a config that divides the model among the processes, and let it use our wrapper instead of mmengine's.

    Raises:
        UserError: If ``model_wrapper_cfg`` has settings that are not known here, or if another part of the config
            would not work with it: loops and checkpoint hooks that are not ours, ``torch.compile``, or unused
            parameters as with DDP.
    """
    wrapper = cfg.get('model_wrapper_cfg') or {}
    if wrapper.get('type') not in ('MMFullyShardedDataParallel', 'ShardedDataParallel'):
        return
    known = dict(type=wrapper.type, use_orig_params=True, find_unused_parameters=False)
    loop, hook = (cfg.get('train_cfg') or {}).get('type'), cfg.get('default_hooks', {}).get('checkpoint') or {}
    problems = [
        f'model_wrapper_cfg.{key}={value!r} is not known here: set {SHARDING} and nothing else'
        for key, value in wrapper.items()
        if key not in known or value != known[key]
    ]
    if cfg.get('find_unused_parameters'):
        problems.append('find_unused_parameters=True belongs to DDP: set it to False; an unused parameter is no error')
    if cfg.get('train_cfg') and loop not in OUR_LOOPS:
        problems.append(f'train_cfg.type={loop!r} would not exchange gradients: set {" or ".join(OUR_LOOPS)}')
    if hook.get('type') != 'SafeCheckpointHook':
        problems.append("default_hooks.checkpoint.type must be 'SafeCheckpointHook': others save a part of the weights")
    if cfg.get('compile') or any('CompileBackboneHook' in str(h['type']) for h in cfg.get('custom_hooks') or ()):
        problems.append('torch.compile cannot be combined with it: remove compile and CompileBackboneHook')
    clipping = (cfg.get('optim_wrapper') or {}).get('clip_grad') or {}
    if math.isinf(float(clipping.get('norm_type', 2))):
        problems.append('optim_wrapper.clip_grad.norm_type=inf fails where a process has no part of a parameter: set 2')
    if problems:
        raise UserError(f'{cfg.filename}: model_wrapper_cfg divides the model among the processes, and {problems[0]}')
    cfg.model_wrapper_cfg = dict(type='ShardedDataParallel')


def check_loaders(cfg: Config) -> None:
    """Check the numbers of the data loaders; without workers, switch off what only workers can do.

    Raises:
        UserError: If ``batch_size`` or ``num_workers`` is not such a number.
    """
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader') or {}
        for key, least in (('batch_size', 1), ('num_workers', 0)):
            value = loader.get(key, least)
            # mmdet's MultiDataAspectRatioBatchSampler takes a batch size for each data set
            numbers = value if key == 'batch_size' and isinstance(value, list | tuple) else [value]
            if not all(type(number) is int and number >= least for number in numbers):
                raise UserError(
                    f'{split}_dataloader.{key} is {value!r}: set an integer from {least}, such as '
                    f'{split}_dataloader.{key}=2'
                )
        if loader and not loader.get('num_workers'):
            loader.pop('persistent_workers', None)  # PyTorch refuses both without workers
            loader.pop('prefetch_factor', None)


def check_loop(cfg: Config) -> None:
    """Check that the training loop counts in the unit of its length, epochs or iterations.

    Raises:
        UserError: If ``train_cfg`` has the length in the other unit, in both, or not as a positive number; the message
            has the settings to use instead.
    """
    train_cfg = cfg.get('train_cfg')
    type_ = (train_cfg or {}).get('type')
    loop = LOOPS.get(type_) if isinstance(type_, str) else type_
    if loop is None:
        return
    known = {name for taker in inspect.getmro(loop)[:-1] for name in inspect.signature(taker).parameters}
    units = {'max_epochs': 'epochs', 'max_iters': 'iterations'}
    for key, other in (('max_epochs', 'max_iters'), ('max_iters', 'max_epochs')):
        if key not in train_cfg or other not in known:
            continue
        if key not in known:
            loops = dict(max_epochs='ResumableEpochLoop', max_iters='ResumableIterLoop')
            raise UserError(
                f'train_cfg.{key} is set, but {type_} counts {units[other]}: set train_cfg.{other} instead, or train '
                f"by {units[key]} with train_cfg=dict(_delete_=True, type='{loops[key]}', {key}={train_cfg[key]}, "
                'val_interval=1) and a param_scheduler, a sampler and hooks in the same unit'
            )
    for key in units:
        value = train_cfg.get(key, 1)
        if key in known and (type(value) is not int or value < 1):
            raise UserError(f'train_cfg.{key} is {value!r}: set a positive integer, such as train_cfg.{key}=12')
