"""Settings of mmdet 2.x and mmseg 0.x, which nothing reads any more: mmengine ignores them without a word."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from mmengine.config import Config
from mmengine.logging import print_log

from backbones.errors import UserError

from .unread_variables import config_files

LISTED = 6  # settings at most in one message
# a top-level key, or one entry of it, and what to write instead; {} is its value
NEW_SETTINGS = {
    'optimizer': 'optim_wrapper=dict(optimizer={})',
    'optimizer_config.grad_clip': 'optim_wrapper=dict(clip_grad={})',
    'optimizer_config.cumulative_iters': 'optim_wrapper=dict(accumulative_counts={})',
    'fp16.loss_scale': "optim_wrapper=dict(type='FiniteAmpOptimWrapper', loss_scale={})",
    'lr_config': 'param_scheduler=[...]',
    'momentum_config': 'param_scheduler=[...]',
    'runner.max_epochs': 'train_cfg=dict(max_epochs={})',
    'runner.max_iters': 'train_cfg=dict(max_iters={})',
    'total_epochs': 'train_cfg=dict(max_epochs={})',
    'total_iters': 'train_cfg=dict(max_iters={})',
    'evaluation.interval': 'train_cfg=dict(val_interval={})',
    'evaluation.metric': 'val_evaluator=dict(metric={})',
    'evaluation.save_best': 'default_hooks=dict(checkpoint=dict(save_best={}))',
    'checkpoint_config.interval': 'default_hooks=dict(checkpoint=dict(interval={}))',
    'checkpoint_config.max_keep_ckpts': 'default_hooks=dict(checkpoint=dict(max_keep_ckpts={}))',
    'log_config.interval': 'default_hooks=dict(logger=dict(interval={}))',
    'log_config.hooks': 'visualizer=dict(vis_backends=[...])',
    'workflow': 'val_dataloader, val_cfg and val_evaluator',
    'resume_from': 'resume=True, load_from={}',
    'auto_resume': 'resume={}',
    'data.samples_per_gpu': 'train_dataloader=dict(batch_size={})',
    'data.workers_per_gpu': 'train_dataloader=dict(num_workers={})',
    'data.train': 'train_dataloader=dict(dataset=dict(...))',
    'data.val': 'val_dataloader=dict(dataset=dict(...))',
    'data.test': 'test_dataloader=dict(dataset=dict(...))',
    'train_dataset': 'train_dataloader=dict(dataset=dict(...))',
    'img_norm_cfg': 'model=dict(data_preprocessor=dict(mean=..., std=...))',
    'seed': 'randomness=dict(seed={})',
    'deterministic': 'randomness=dict(deterministic={})',
    'cudnn_benchmark': 'env_cfg=dict(cudnn_benchmark={})',
    'dist_params': 'env_cfg=dict(dist_cfg={})',
    'mp_start_method': 'env_cfg=dict(mp_cfg=dict(mp_start_method={}))',
    'opencv_num_threads': 'env_cfg=dict(mp_cfg=dict(opencv_num_threads={}))',
}


def refuse_old_settings(cfg: Config) -> None:
    """Refuse top-level settings of mmdet 2.x and mmseg 0.x that a config sets and that nothing reads.

    A variable may have the name of such a setting: mmseg's own schedules put their ``optimizer`` into
    ``optim_wrapper``, and ``data`` is a common name. A variable that its config reads is accepted. Some recipes of the
    installed mmdet and mmseg have old settings, too; these give a warning.

    Args:
        cfg: The config as it was read from files, before options are merged into it.

    Raises:
        UserError: If there are such settings; the message has what to write instead of each of them.
    """
    for file in config_files(cfg):
        found = [f'{old} -> {new}' for key in file.unread if key in cfg for old, new in replacements(key, cfg[key])]
        if not found:
            continue
        more = f'; and {len(found) - LISTED} more' if len(found) > LISTED else ''
        message = (
            f'{file.path} has settings of mmdet 2.x or mmseg 0.x, which nothing reads. Replace: '
            f'{"; ".join(found[:LISTED])}{more}'
        )
        if not file.is_upstream:
            raise UserError(message)
        print_log(message, 'current', logging.WARNING)


def refuse_old_option(cfg: Config, option: str) -> None:
    """Refuse an option of mmdet 2.x or mmseg 0.x, unless the config has a key of this name.

    Args:
        cfg: The config before the options are merged.
        option: The key, such as ``'runner.max_epochs'``.

    Raises:
        UserError: If it is one; the message has what to write instead.
    """
    first = option.split('.')[0]
    if first in cfg:
        return
    for old in ('.'.join(option.split('.')[:2]), first):
        if old in NEW_SETTINGS:
            raise UserError(
                f'--cfg-options {option} is a setting of mmdet 2.x or mmseg 0.x; today it is '
                f'{NEW_SETTINGS[old].format("...")}'
            )


def replacements(key: str, value: object) -> Iterator[tuple[str, str]]:
    """Find what to write instead of an old setting.

    Args:
        key: A top-level key.
        value: Its value.

    Yields:
        The old setting, such as ``'runner.max_epochs'``, and the new one. Nothing if the key is not that of an old
        setting, or if none of its entries is known.
    """
    if key in NEW_SETTINGS:
        yield key, NEW_SETTINGS[key].format(_shown(value))
    elif isinstance(value, Mapping):
        for entry in value:
            if f'{key}.{entry}' in NEW_SETTINGS:
                yield f'{key}.{entry}', NEW_SETTINGS[f'{key}.{entry}'].format(_shown(value[entry]))


def _shown(value: object) -> str:
    """A value as a config has it, or three dots in place of a long one."""
    if isinstance(value, Mapping) and all(isinstance(key, str) and key.isidentifier() for key in value):
        shown = f'dict({", ".join(f"{key}={_shown(entry)}" for key, entry in value.items())})'
    else:
        shown = repr(value)
    return shown if len(shown) < 60 else '...'
