"""Settings that differ between a checkpoint and the run that goes on from it: refused, reported, or put into effect."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from itertools import chain

import torch
from mmengine.dist import get_world_size
from mmengine.optim import OptimWrapperDict, ReduceOnPlateauParamScheduler
from mmengine.runner import Runner

from backbones.errors import UserError

from .optimizer_wrappers import optimizer_wrappers

# types that had another name when the checkpoint was written, from their old to their present names
RENAMED = {"'outlive_signals'": "'ignore_signals'", "'RestartableInfiniteSampler'": "'InfiniteSampler'"}
# settings of optimizer wrappers on which no learning rate and no other number of an optimizer depends
NOT_OF_OPTIMIZER = ('accumulative_counts', 'clip_grad', 'dtype', 'loss_scale', 'max_bad_steps', 'type')
DATA_DIVISION = {'processes', 'batch_size', 'images'}  # conditions on which the length of an epoch depends
MOST_LINES = 50  # of settings that differ


def conditions(runner: Runner) -> dict[str, object]:
    """What the numbers of a run depend on besides its seed: processes, threads, data and settings."""
    dataset = runner.train_dataloader.dataset
    sections = ('model', 'optim_wrapper', 'param_scheduler', 'train_dataloader', 'train_cfg', 'auto_scale_lr')
    settings = {}
    for section in sections:
        for key, value in flatten(runner.cfg.get(section), section):
            if '.init_cfg' not in key:  # a resumed run does not use it
                settings[key] = value
    for hook in runner.cfg.get('custom_hooks') or ():
        if isinstance(hook, Mapping):
            settings |= dict(flatten(hook, f'custom_hooks.{hook["type"]}'))
    return dict(
        processes=get_world_size(),
        batch_size=runner.cfg.get('train_dataloader', {}).get('batch_size'),
        images=len(dataset),
        classes=list(getattr(dataset, 'metainfo', {}).get('classes', ())),
        threads=torch.get_num_threads(),
        settings=settings,
    )


def compare(before: Mapping, now: Mapping, within_epoch: bool, logger: logging.Logger) -> set[str]:
    """Compare a run with its continuation: log what differs, and refuse what cannot go on.

    Args:
        before: Conditions in the checkpoint, as :func:`conditions` returns them.
        now: Conditions of this run.
        within_epoch: Whether the checkpoint was saved in the middle of an epoch.
        logger: The Runner's.

    Returns:
        The names of the conditions and settings that differ.

    Raises:
        UserError: If the classes or the type of the optimizer differ, or if the data is divided differently in the
            middle of an epoch.
    """
    if before['classes'] != now['classes']:
        raise UserError(
            f'the checkpoint was trained on the classes {", ".join(before["classes"][:5])} ({len(before["classes"])}), '
            f'and this run has {", ".join(now["classes"][:5])} ({len(now["classes"])}): its labels would change their '
            'meaning. To fine-tune on other classes, use load_from and StrictLoadHook(reinitialise=...)'
        )
    divided = [f'{key} {before[key]} -> {now[key]}' for key in sorted(DATA_DIVISION) if before[key] != now[key]]
    if divided and within_epoch:
        raise UserError(
            f'the checkpoint was saved in the middle of an epoch, and {", ".join(divided)} would divide the rest of it '
            'differently: resume from the checkpoint of an epoch by --resume FILE, or under the earlier conditions'
        )
    if divided:
        logger.warning(f'RESUMED UNDER OTHER CONDITIONS, {", ".join(divided)}: the batches now hold other images')
    earlier = {key: RENAMED.get(value, value) for key, value in before['settings'].items()}
    present = now['settings']
    if not any(key.startswith('custom_hooks.') for key in earlier):  # before version 0.2
        present = {key: value for key, value in present.items() if not key.startswith('custom_hooks.')}
    differing = [key for key in earlier | present if earlier.get(key) != present.get(key)]
    lines = [f'{key}: {earlier.get(key, "not set")} -> {present.get(key, "not set")}' for key in differing]
    if lines:
        more = f'\n  and {len(lines) - MOST_LINES} more' if len(lines) > MOST_LINES else ''
        logger.warning('resumed with other settings:\n  ' + '\n  '.join(lines[:MOST_LINES]) + more)
    for key, line in zip(differing, lines, strict=True):
        if re.fullmatch(r'optim_wrapper\.(.+\.)?optimizer\.(type|amsgrad|centered)', key):
            raise UserError(
                f'{line}: the state of one optimizer is of no use to another. Resume with the earlier one, or begin a '
                'new run from these weights by load_from'
            )
    if before['threads'] != now['threads']:
        logger.warning(f'threads {before["threads"]} -> {now["threads"]}: the last bits of sums will differ')
    return {*differing, *(key for key in DATA_DIVISION if before[key] != now[key])}


def apply_to_optimizers(runner: Runner, checkpoint: dict, changed: set[str], epoch_start: int) -> None:
    """Put changed settings of optimizers and schedules into effect, as if the run had had them from its beginning.

    mmengine would replace them by those in the checkpoint. The optimizers' state remains that of the checkpoint.

    Args:
        runner: The Runner, with new optimizers and schedules.
        checkpoint: The checkpoint before it is loaded; its settings are replaced.
        changed: What :func:`compare` returned.
        epoch_start: Iteration at which the checkpoint's epoch began.

    Raises:
        UserError: If the checkpoint does not have the parameter groups of the new optimizer, or if a schedule depends
            on the scores of earlier validations.
    """
    states = checkpoint.get('optimizer', {})
    if not isinstance(runner.optim_wrapper, OptimWrapperDict):
        states = {'': states} if states else {}
    pairs = list(zip(optimizer_wrappers(runner), states.values(), strict=False))
    for wrapper, state in pairs:
        groups, saved = wrapper.optimizer.param_groups, state['param_groups']
        if [len(group['params']) for group in groups] != [len(group['params']) for group in saved]:
            raise UserError(
                f'the optimizer of the checkpoint has {len(saved)} groups of parameters, and that of this run '
                f'{len(groups)}, or groups of another size: resume with the earlier model, frozen stages and '
                'optim_wrapper.paramwise_cfg, or begin a new run from these weights by load_from'
            )
        if changed & {'optim_wrapper.loss_scale', 'optim_wrapper.dtype', 'optim_wrapper.type'}:
            state.pop('loss_scaler', None)
    schedulers = runner.param_schedulers or []
    if isinstance(schedulers, dict):  # of several optimizers
        schedulers = list(chain(*schedulers.values()))
    of_rates, of_lengths = _is_of_rates(changed), changed & DATA_DIVISION or _is_of_lengths(changed)
    plateau = [s for s in schedulers if isinstance(s, ReduceOnPlateauParamScheduler)]
    if plateau and of_rates:
        raise UserError(
            f'{type(plateau[0]).__name__} depends on earlier scores, so that its settings and those of the optimizer '
            'cannot change: resume with the earlier ones, or begin a new run from these weights by load_from'
        )
    if plateau or not (of_rates or of_lengths):
        return
    runner.logger.info('Computing the learning rate at which the present settings go on; this may take a minute')
    _fast_forward(schedulers, checkpoint['meta']['epoch'], checkpoint['meta']['iter'], epoch_start)
    checkpoint.pop('param_schedulers', None)
    for wrapper, state in pairs:
        for group, old in zip(wrapper.optimizer.param_groups, state['param_groups'], strict=True):
            old.update({key: value for key, value in group.items() if key != 'params'})
        if 'base_param_settings' in state:
            state['base_param_settings'] = wrapper.base_param_settings
    rate = optimizer_wrappers(runner)[0].optimizer.param_groups[0]['lr']
    runner.logger.warning(
        f'optimizer and schedules go on with the present settings, as if these had held from the first iteration: the '
        f'learning rate is {rate:.4g}'
    )


def _is_of_rates(changed: set[str]) -> bool:
    """Whether settings of an optimizer or of a schedule have changed."""
    of_wrapper = [key.split('.')[1] for key in changed if key.startswith('optim_wrapper.')]
    others = [key for key in changed if key.startswith(('param_scheduler', 'auto_scale_lr.'))]
    return bool(others) or any(name not in NOT_OF_OPTIMIZER for name in of_wrapper)


def _is_of_lengths(changed: set[str]) -> bool:
    """Whether the length of the run has changed, which is the default end of a schedule."""
    return any(key.startswith('train_cfg.max_') for key in changed)


def _fast_forward(schedulers: list, epochs: int, iterations: int, epoch_start: int) -> None:
    """Let new schedulers take the steps that they would have taken so far, in epochs of equal length."""
    epoch_ends = {epoch_start * epoch // epochs for epoch in range(1, epochs + 1)}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # PyTorch's warning that the optimizer has not taken these steps
        for iteration in range(1, iterations + 1):
            for scheduler in schedulers:
                if not scheduler.by_epoch:
                    scheduler.step()
            if iteration in epoch_ends:
                for scheduler in schedulers:
                    if scheduler.by_epoch:
                        scheduler.step()


def flatten(value: object, name: str) -> Iterator[tuple[str, str]]:
    """Yield the settings of a section of a config.

    Args:
        value: The section.
        name: Its name.

    Yields:
        The dotted name of each setting, and its value as Python writes it.
    """
    if isinstance(value, Mapping) and value:
        items = value.items()
    elif isinstance(value, list) and value:
        items = enumerate(value)
    else:
        yield name, repr(value)
        return
    for key, part in items:
        yield from flatten(part, f'{name}.{key}')
