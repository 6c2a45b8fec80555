"""Configs on the command line: reading one, and preparing a run from it."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from backbones.errors import UserError, did_you_mean
from backbones.safe_checkpoint import trust_checkpoints

from ..atomic_files import make_folder
from ..checks.class_lists import concatenation_problems, let_parts_lack_classes
from ..checks.image_channels import check_channels
from ..data.metainfo import metainfo_problems
from .cfg_options import check_option
from .config_checks import (
    check_constructor,
    check_functions,
    check_loaders,
    check_loop,
    check_sharding,
    has_our_backbone,
    refuse_other_runners,
)
from .error_messages import note_config
from .launching import RANK_VARIABLES, join_processes
from .old_settings import refuse_old_option, refuse_old_settings
from .paths import expand_path, expand_paths
from .segmentation_losses import mend_losses
from .sliding_window import complete_sliding_window
from .unread_variables import warn_of_unread_variables

PLUGINS = dict(mmdet='mmdet_plugin', mmseg='mmseg_plugin', mmengine='timm_plugin')  # by default_scope
OUR_HOOKS = ('StrictLoadHook', 'ResumeHook', 'CheckRunHook', 'NumClassesHook', 'SkippedSamplesHook')


def load_config(path: str, options: Mapping[str, object]) -> Config:
    """Read a config and merge ``--cfg-options`` into it.

    Args:
        path: Config file.
        options: Values by dotted keys.

    Returns:
        The config.

    Raises:
        UserError: If the file or one of its bases does not exist or cannot be read, if it has settings that only
            mmdet 2.x and mmseg 0.x read, if the model's backbone is ours and the config does not import our plugin, if
            an option names a key that does not exist, if a path holds control characters, if the settings of a sliding
            window cannot be used, or if settings disagree about the channels of the images.
    """
    if Path(path).is_dir():
        raise UserError(f'{path} is a folder: name a config file in it')
    if not Path(path).is_file():
        near = [str(p.with_suffix('')) for pattern in ('*.py', '*/*.py') for p in Path(path).parent.glob(pattern)]
        near = did_you_mean(str(Path(path).with_suffix('')), near).replace("'?)", ".py'?)")
        raise UserError(f'config {path} does not exist{near}')
    try:
        cfg = Config.fromfile(path)
    except FileNotFoundError as error:
        raise UserError(f'config {path}: its base {error.filename or error} does not exist') from error
    except RecursionError as error:
        raise UserError(f'config {path} inherits from itself: see _base_ in it') from error
    except KeyError as error:
        unset = re.match('`(.+)` cannot be found in `os.environ`', str(error.args[0]))
        if not unset:
            raise
        raise UserError(
            f'config {path} needs the environment variable {unset[1]}: a comment in it says which values there are'
        ) from error
    except (OSError, SyntaxError, TypeError) as error:
        if isinstance(error, TypeError) and 'cannot inherit from base' not in str(error):
            raise
        raise UserError(f'config {path}: {error}') from error
    except ImportError as error:
        failed = error.__cause__ or error  # mmengine raises "Failed to import" while it handles the reason
        raise UserError(
            f'config {path}: {failed.__context__ or failed}; if this is not a module of your own, run tools/doctor.py'
        ) from error
    refuse_old_settings(cfg)
    if 'model' not in cfg or 'default_scope' not in cfg:
        raise UserError(f'config {path} has no model and default_scope: is it a base rather than a whole config?')
    check_plugin(cfg)
    warn_of_unread_variables(cfg)
    for key in options:
        refuse_old_option(cfg, key)
        check_option(cfg, key)
    try:
        cfg.merge_from_dict(options)
    except TypeError as error:
        raise UserError(f'--cfg-options {" ".join(options)}: {str(error).split(". ")[0]}') from error
    note_config(cfg)
    expand_paths(cfg)
    complete_sliding_window(cfg)
    let_parts_lack_classes(cfg)
    check_channels(cfg)
    for problem in metainfo_problems(cfg):  # before a data set fails on it
        raise UserError(problem)
    return cfg


def load_run(args: argparse.Namespace) -> Config:
    """Prepare the config of a training or a test, and join the processes of its launcher.

    Args:
        args: Arguments of :func:`~mmengine_plugin.cli.arguments.run_parser`.

    Returns:
        The config, with launcher, work directory and the hooks that no run goes without.

    Raises:
        UserError: If the config cannot be used, if it asks for another Runner, if the work directory cannot
            be written to, or if a launcher is named that did not start this process.
    """
    for variable in RANK_VARIABLES.get(args.launcher, ()):
        if variable not in os.environ:
            raise UserError(
                f'--launcher {args.launcher}: {variable} is not set; start it by tools/dist_*.sh or tools/slurm_*.sh'
            )
    if args.trust_checkpoint:
        trust_checkpoints()
    cfg = load_config(args.config, args.cfg_options)
    for check in (check_functions, check_constructor, check_loaders, check_loop, refuse_other_runners, check_sharding):
        check(cfg)
    mend_losses(cfg)
    for problem in concatenation_problems(cfg):  # before upstream's ConcatDataset fails on it
        raise UserError(problem)
    cfg.custom_hooks = with_our_hooks(cfg.get('custom_hooks') or [])
    cfg.launcher = args.launcher
    work_dir = args.work_dir and expand_path(args.work_dir, '--work-dir')
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{Path(args.config).stem}'
    make_folder(cfg.work_dir)
    if args.launcher != 'none':
        join_processes(cfg)
    return cfg


def with_our_hooks(hooks: Sequence[Mapping]) -> list[Mapping]:
    """Add those of our hooks that no run goes without: a config's own list of hooks replaces that of its base.

    Args:
        hooks: The config's ``custom_hooks``.

    Returns:
        The hooks, and those that they lack.
    """
    types = [hook['type'] if isinstance(hook['type'], str) else hook['type'].__name__ for hook in hooks]
    names = [name.split('.')[-1] for name in types]  # without the scope
    return [*hooks, *(dict(type=name) for name in OUR_HOOKS if name not in names)]


def check_plugin(cfg: Config) -> None:
    """Check that a config whose backbone is ours imports our plugin.

    Raises:
        UserError: If it does not; the message has the line to add.
    """
    backbone = cfg.model.get('backbone', {}).get('type')
    if has_our_backbone(cfg) and sys.modules.keys().isdisjoint(PLUGINS.values()):
        plugin = PLUGINS.get(cfg.default_scope, 'mmdet_plugin')
        raise UserError(
            f"{cfg.filename}: {backbone} is not registered: add custom_imports = dict(imports=['{plugin}'], "
            "allow_failed_imports=False). A config's custom_imports replaces that of its base: list all imports there"
        )


def warn_of_batch_size(runner: Runner) -> None:
    """Log a warning if the global batch is not the one that the learning rate was chosen for."""
    recipe, cfg = runner.cfg.get('auto_scale_lr', {}), runner.cfg
    images, steps = cfg.train_dataloader.get('batch_size', 1), cfg.optim_wrapper.get('accumulative_counts', 1)
    batch = runner.world_size * images * steps
    if not recipe.get('enable') and batch != recipe.get('base_batch_size', batch):
        runner.logger.warning(
            f'THE GLOBAL BATCH IS {batch} ({runner.world_size} processes x {images} images x {steps} accumulated), '
            f"THE RECIPE'S IS {recipe.base_batch_size}: scores will differ from the recipe's. Match it by "
            'train_dataloader.batch_size or optim_wrapper.accumulative_counts, or scale the learning rate by '
            '--auto-scale-lr'
        )
