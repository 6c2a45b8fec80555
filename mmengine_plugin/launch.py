"""From a command line to a Runner: what ``tools/train.py`` and ``tools/test.py`` have in common."""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import mmengine.registry
import torch
from mmengine.config import Config, DictAction
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS, MODELS, Registry
from mmengine.runner import Runner
from torch import nn
from torch.distributed import PrefixStore, Store, register_rendezvous_handler, rendezvous
from torch.distributed.elastic.multiprocessing.errors import record
from torch.utils.data import DataLoader

from backbones import weights
from backbones.errors import UserError, did_you_mean

from .files import make_folder

# what the Runner and OpenMMLab's programs look up in the config, besides the Runner's arguments
RUNNER_KEYS = (
    *('activation_checkpointing', 'compile', 'custom_imports', 'efficient_conv_bn_eval', 'find_unused_parameters'),
    *('model_wrapper_cfg', 'tta_model', 'tta_pipeline'),
)
# where each launcher says which process this is, how many there are, and which it is on this machine
RANKS = dict(
    pytorch=('RANK', 'WORLD_SIZE', 'LOCAL_RANK'),
    slurm=('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_LOCALID'),
    mpi=('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
)
REGISTRIES = [value for value in vars(mmengine.registry).values() if isinstance(value, Registry)]


class Options(DictAction):
    """``KEY=VALUE ...``; mmengine's parser answers what it cannot read with a traceback."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: list, *args) -> None:
        """Parse the pairs."""
        try:
            super().__call__(parser, namespace, values, *args)
        except (AssertionError, ValueError):
            parser.error(f'--cfg-options takes KEY=VALUE pairs without blanks around "=", and got: {" ".join(values)}')


def positive(text: str) -> int:
    """A number from the command line, 1 or more."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f'{text!r} is no positive number')
    return int(text)


def config_parser(description: str) -> argparse.ArgumentParser:
    """The arguments that name a config: those of every tool that reads one."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        default={},
        metavar='KEY=VALUE',
        help='override settings, for example train_dataloader.batch_size=4 or model.backbone.init_cfg=None',
    )
    return parser


def run_parser(description: str) -> argparse.ArgumentParser:
    """The arguments that training and testing share, named as OpenMMLab's tools name them."""
    parser = config_parser(description)
    parser.add_argument('--work-dir', help='where logs and results go (default: work_dirs/<name of the config>)')
    parser.add_argument('--launcher', choices=['none', *RANKS], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    trust_option(parser)
    return parser


def trust_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust-checkpoint``."""
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='let checkpoint files run whatever code they hold; only for files whose origin you know',
    )


@record  # of what is raised here, for dist_run.py: by a file, it can tell a crash from an error of the user's
def run(main: Callable[[], None]) -> None:
    """Call a tool's ``main``; a :class:`UserError` is printed as one message and ends it with exit code 1."""
    try:
        main()
    except UserError as error:
        # one that a data loader's process raised is raised again with the text of its traceback
        sys.exit(f'error: {str(error).rpartition("errors.UserError: ")[2].rstrip()}')
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except FileNotFoundError as error:
        if not error.filename:  # raised again by a worker, with that one's traceback
            raise
        sys.exit(f'error: {error.filename} does not exist (seen from {Path.cwd()})')
    except KeyError as error:
        unregistered = re.match(r"'(\S+) is not in the (\S+) registry", str(error))
        if not unregistered:
            raise
        name, registry = unregistered.groups()
        known = {key for r in REGISTRIES for scope in (r, *r.children.values()) for key in scope.module_dict}
        sys.exit(
            f'error: {name} is not registered in {registry}{did_you_mean(name, known)}. Name the module of a class of '
            "your own in custom_imports; a config's custom_imports replaces that of its base, so list all imports there"
        )


def load_config(path: str, options: Mapping[str, object]) -> Config:
    """Read a config and merge ``--cfg-options`` into it.

    Raises:
        UserError: If the file or a base of it is missing, if its model's backbone is ours and its plugin was not
            imported, or if an option names a key that exists nowhere.
    """
    if not Path(path).is_file():
        near = [str(p.with_suffix('')) for p in Path(path).parent.glob('*.py')]
        near = did_you_mean(str(Path(path).with_suffix('')), near).replace("'?)", ".py'?)")
        raise UserError(f'config {path} does not exist{near}')
    try:
        cfg = Config.fromfile(path)
    except FileNotFoundError as error:
        raise UserError(f'config {path}: its base {error.filename or error} does not exist') from error
    except (OSError, SyntaxError, TypeError) as error:
        if isinstance(error, TypeError) and 'cannot inherit from base' not in str(error):
            raise
        raise UserError(f'config {path}: {error}') from error
    except ImportError as error:
        failed = error.__cause__ or error  # mmengine's "Failed to import", while it handled the reason
        raise UserError(
            f'config {path}: {failed.__context__ or failed}; if that is no module of yours, ask tools/doctor.py'
        ) from error
    if 'model' not in cfg or 'default_scope' not in cfg:
        raise UserError(f'config {path} has no model and default_scope: is it a base rather than a whole config?')
    check_plugin(cfg)
    for key in options:
        check_option(cfg, key)
    try:
        cfg.merge_from_dict(options)
    except TypeError as error:
        raise UserError(f'--cfg-options {" ".join(options)}: {str(error).split(". ")[0]}') from error
    return cfg


def load_run(args: argparse.Namespace) -> Config:
    """The config of a training or a test, as the arguments of :func:`run_parser` have it.

    Raises:
        UserError: As :func:`load_config`, and if a launcher is named that did not start this process.
    """
    if args.launcher != 'none' and (lacking := [name for name in RANKS[args.launcher] if name not in os.environ]):
        raise UserError(
            f'--launcher {args.launcher}: {lacking[0]} is not set; start it by tools/dist_*.sh or tools/slurm_*.sh'
        )
    if args.trust_checkpoint:
        weights.trust_checkpoints()
    cfg = load_config(args.config, args.cfg_options)
    hooks = cfg.get('custom_hooks') or []
    ours = ('StrictLoadHook', 'ResumeHook')  # a config's own list replaces that of its base
    cfg.custom_hooks = [*hooks, *(dict(type=name) for name in ours if all(hook['type'] != name for hook in hooks))]
    cfg.launcher = args.launcher
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or f'work_dirs/{Path(args.config).stem}'
    make_folder(cfg.work_dir)
    if args.launcher != 'none':
        join_processes(cfg)
    return cfg


def join_processes(cfg: Config) -> None:
    """Where there is no GPU, join the processes that a launcher started; where there is one, mmengine does.

    mmengine gives each process a GPU before it joins, and wraps the model for that GPU. Here, gloo connects CPUs.

    Raises:
        UserError: If there are fewer GPUs than processes on this machine, or if the processes cannot connect.
    """
    rank, size, local_rank = (os.environ[name] for name in RANKS[cfg.launcher])
    os.environ['LOCAL_RANK'] = local_rank  # where mmengine looks for it
    method = 'restarts://' if cfg.launcher == 'pytorch' else 'env://'
    if torch.cuda.is_available():
        if int(local_rank) >= torch.cuda.device_count():
            raise UserError(
                f'{int(local_rank) + 1} or more processes were started on this machine, and it has '
                f'{torch.cuda.device_count()} GPUs: start one process for each'
            )
        cfg.merge_from_dict({'env_cfg.dist_cfg.init_method': method})
        return
    os.environ.update(RANK=rank, WORLD_SIZE=size)
    if cfg.launcher == 'slurm' and 'MASTER_ADDR' not in os.environ:
        nodes = ['scontrol', 'show', 'hostnames', os.environ['SLURM_NODELIST']]
        os.environ['MASTER_ADDR'] = subprocess.run(nodes, check=True, capture_output=True, text=True).stdout.split()[0]
    address = os.environ.setdefault('MASTER_ADDR', '127.0.0.1'), os.environ.setdefault('MASTER_PORT', '29500')
    try:
        torch.distributed.init_process_group('gloo', method)
    except torch.distributed.DistNetworkError as error:
        raise UserError(
            f'the processes cannot meet at {":".join(address)}: set MASTER_PORT to a port that is free there '
            f'[{str(error).splitlines()[0]}]'
        ) from error
    find_unused = cfg.get('find_unused_parameters', False)
    cfg.model_wrapper_cfg = dict(type='CPUDistributedDataParallel', find_unused_parameters=find_unused)


def _rendezvous(url: str, **kwargs: object) -> Iterator[tuple[Store, int, int]]:
    """PyTorch's ``env://``; in torchrun's store, new processes must not find the addresses of lost ones."""
    store, rank, size = next(rendezvous('env://', **kwargs))
    yield PrefixStore(f'restart {os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)}', store), rank, size


register_rendezvous_handler('restarts', _rendezvous)


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """Data parallelism over CPUs, where SyncBN does not work and becomes BN."""

    def __init__(self, module: nn.Module, device_ids: object = None, **kwargs: object) -> None:
        if any(isinstance(m, nn.SyncBatchNorm) for m in module.modules()):
            module = revert_sync_batchnorm(module)
            print_log('No GPU: SyncBN becomes BN, which sees the images of one process', 'current', logging.WARNING)
        super().__init__(module, device_ids=None, broadcast_buffers=False, **kwargs)


def check_plugin(cfg: Config) -> None:
    """Raise a :class:`UserError` if a backbone of ours stands in a config that does not import our plugin."""
    backbone = cfg.model.get('backbone', {}).get('type')
    ours = backbone and getattr(MODELS.get(backbone), '__module__', '').startswith('backbones.')
    if ours and not {'mmdet_plugin', 'mmseg_plugin'} & set(sys.modules):
        plugin = 'mmseg_plugin' if cfg.default_scope == 'mmseg' else 'mmdet_plugin'
        raise UserError(
            f"{cfg.filename}: {backbone} is not registered: add custom_imports = dict(imports=['{plugin}'], "
            "allow_failed_imports=False). A config's custom_imports replaces that of its base: list all imports there"
        )


def check_option(cfg: Config, option: str) -> None:
    """Raise a :class:`UserError` if a ``--cfg-options`` key exists nowhere, before it changes nothing in silence.

    A key exists if its section of the config has it, or if whatever is built from the section has such an argument.
    Where that is not known, in a free dict, only what looks like a slip of the pen is refused.
    """
    section: object = cfg._cfg_dict
    for name in option.split('.'):
        if isinstance(section, (list, tuple)):
            if not name.isdigit() or int(name) >= len(section):
                raise UserError(f'--cfg-options {option}: {name!r} must be an index below {len(section)}')
            section = section[int(name)]
        elif isinstance(section, Mapping):
            arguments, complete = _arguments(section, cfg)
            known = {*section, *arguments}
            if name not in known:
                near = did_you_mean(name, known, cutoff=0.5 if complete else 0.8)
                if complete or near:
                    raise UserError(f'--cfg-options {option}: {name!r} exists nowhere in {cfg.filename}{near}')
            section = section.get(name)
        else:
            return  # a new section: nothing to compare with


def warn_of_batch(runner: Runner) -> None:
    """Say loudly that the global batch is not the one that the learning rate was chosen for."""
    recipe = runner.cfg.get('auto_scale_lr', {})
    images, steps = (
        runner.cfg.train_dataloader.get('batch_size', 1),
        runner.cfg.optim_wrapper.get('accumulative_counts', 1),
    )
    batch = runner.world_size * images * steps
    if not recipe.get('enable') and batch != recipe.get('base_batch_size', batch):
        runner.logger.warning(
            f'THE GLOBAL BATCH IS {batch} ({runner.world_size} processes x {images} images x {steps} accumulated), '
            f"THE RECIPE'S IS {recipe.base_batch_size}: scores will differ from the recipe's. Match it by "
            'train_dataloader.batch_size or optim_wrapper.accumulative_counts, or scale the learning rate by '
            '--auto-scale-lr'
        )


def _arguments(section: Mapping, cfg: Config) -> tuple[set[str], bool]:
    """The arguments of what is built from a section of the config, and whether these are all that it takes."""
    if section is cfg._cfg_dict:
        return {*inspect.signature(Runner).parameters, *RUNNER_KEYS}, True
    if 'dataset' in section and 'type' not in section:
        return {*inspect.signature(DataLoader).parameters, 'num_batch_per_epoch'}, True
    taker = section.get('type')  # a class or its registered name
    if isinstance(taker, str):
        found = (r.get(f'{cfg.default_scope}.{taker}') or r.get(taker) for r in REGISTRIES)
        taker = next(filter(None, found), None)
    if inspect.isfunction(taker):  # it passes its **kwargs on to what it returns
        takers = [taker, *inspect.getmro(inspect.signature(taker).return_annotation)]
    else:
        takers = inspect.getmro(taker) if inspect.isclass(taker) else []
    signatures = [inspect.signature(t).parameters for t in takers if t is not object]
    names = {name for parameters in signatures for name in parameters}
    keywords = [any(p.kind is p.VAR_KEYWORD for p in parameters.values()) for parameters in signatures]
    return names | {'_delete_', '_scope_', 'type', 'priority', 'constructor'}, bool(names) and not all(keywords)
