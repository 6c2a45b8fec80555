"""The check of ``--cfg-options``: mmengine would set a misspelt key that nothing reads, and say nothing."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import mmengine.registry
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from backbones.errors import UserError, did_you_mean

from ..compat.private_names import as_mapping

REGISTRIES = [value for value in vars(mmengine.registry).values() if isinstance(value, Registry)]
# keys that the Runner and OpenMMLab's programs read from the config, besides the Runner's arguments
RUNNER_KEYS = (
    'activation_checkpointing',
    'compile',
    'custom_imports',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'tta_model',
    'tta_pipeline',
)
# keys that mmengine takes out of a section before it builds the object
BUILDER_KEYS = {'_delete_', '_scope_', 'type', 'priority', 'constructor'}


def check_option(cfg: Config, option: str) -> None:
    """Check that the key of a ``--cfg-options`` pair exists.

    A key exists if its section of the config has it, or if the class that is built from the section has such an
    argument. In sections whose arguments are not known, such as a free dict, only likely misspellings are refused.

    Args:
        cfg: The config before the options are merged.
        option: The key, such as ``'optim_wrapper.optimizer.lr'``.

    Raises:
        UserError: If the key does not exist; it names the nearest one.
    """
    section: object = as_mapping(cfg)
    for name in option.split('.'):
        if isinstance(section, (list, tuple)):
            if not name.isdigit() or int(name) >= len(section):
                raise UserError(f'--cfg-options {option}: {name!r} must be an index below {len(section)}')
            section = section[int(name)]
        elif isinstance(section, Mapping):
            arguments, complete = arguments_of(section, cfg)
            known = {*section, *arguments}
            if name not in known:
                near = did_you_mean(name, known, cutoff=0.5 if complete else 0.8)
                if complete or near:
                    raise UserError(f'--cfg-options {option}: {name!r} exists nowhere in {cfg.filename}{near}')
            section = section.get(name)
        else:
            return  # a new section: there is nothing to compare with


def arguments_of(section: Mapping, cfg: Config) -> tuple[set[str], bool]:
    """List the arguments of what is built from a section of a config.

    Args:
        section: The whole config, a data loader, or a section with a ``type``.
        cfg: The config.

    Returns:
        The names of the arguments, and whether no others are taken.
    """
    if section is as_mapping(cfg):
        return {*inspect.signature(Runner).parameters, *RUNNER_KEYS}, True
    if 'dataset' in section and 'type' not in section:
        return {*inspect.signature(DataLoader).parameters, 'num_batch_per_epoch'}, True
    built = built_from(section, cfg)
    if inspect.isfunction(built):
        callables = [built]
        returned = inspect.signature(built, eval_str=True).return_annotation
        if inspect.isclass(returned) and returned.__module__ != 'builtins':  # the function passes **kwargs on to it
            callables += inspect.getmro(returned)
    elif inspect.isclass(built):
        callables = inspect.getmro(built)
    else:
        callables = []
    names, takes_any = set(), []
    for taker in callables:
        if taker is not object:
            parameters = inspect.signature(taker).parameters
            names.update(parameters)
            takes_any.append(any(p.kind is p.VAR_KEYWORD for p in parameters.values()))
    return names | BUILDER_KEYS, bool(names) and not all(takes_any)


def built_from(section: Mapping, cfg: Config) -> object:
    """The class or function that the ``type`` of a section names; ``None`` if it is not registered."""
    built = section.get('type')  # a class or its registered name
    if isinstance(built, str):
        found = (r.get(f'{cfg.default_scope}.{built}') or r.get(built) for r in REGISTRIES)
        built = next(filter(None, found), None)
    return built
