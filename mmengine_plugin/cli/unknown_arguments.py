"""Answers to a class that was built with wrong arguments: where the config says so, and what to write."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping

from mmengine.config import Config

from backbones.errors import did_you_mean

from ..compat.private_names import as_mapping
from .cfg_options import arguments_of, built_from

UNKNOWN = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")
MISSING = re.compile(r"(\w+)\.__init__\(\) missing \d+ required [\w-]+ arguments?: '(\w+)'")
# arguments of mmdet 2.x and mmseg 0.x, and what to write instead
NEW_ARGUMENTS = {
    'ann_dir': 'data_prefix=dict(seg_map_path=...)',
    'classes': 'metainfo=dict(classes=...)',
    'filter_empty_gt': 'filter_cfg=dict(filter_empty_gt=...)',
    'flip_ratio': 'prob=...',
    'img_dir': 'data_prefix=dict(img_path=...)',
    'img_prefix': 'data_prefix=dict(img=...)',
    'img_scale': 'scale=...',
    'multiscale_mode': 'type=RandomChoiceResize, scales=[...]',
    'palette': 'metainfo=dict(palette=...)',
    'pretrained': "backbone=dict(init_cfg=dict(type='Pretrained', checkpoint=...))",
    'ratio_range': "type='RandomResize', scale=..., ratio_range=...",
    'samples_per_gpu': 'batch_size=...',
    'seg_pad_val': 'pad_val=dict(img=0, seg=255)',
    'seg_prefix': 'data_prefix=dict(seg=...)',
    'split': 'ann_file=...',
    'workers_per_gpu': 'num_workers=...',
}
# transforms of mmdet 2.x and mmseg 0.x, and those that do the same today
NEW_TYPES = {
    'Collect': "PackDetInputs (in mmseg, PackSegInputs); leave out its argument 'keys'",
    'DefaultFormatBundle': 'PackDetInputs (in mmseg, PackSegInputs), at the end of the pipeline',
    'ImageToTensor': 'PackDetInputs (in mmseg, PackSegInputs), at the end of the pipeline',
    'MultiScaleFlipAug': 'the transforms that it has in its list; for test-time augmentation, TestTimeAug',
    'SegRescale': 'Resize, which resizes label maps too',
}


def explain_arguments(error: TypeError, cfg: Config) -> str | None:
    """Explain an error about the arguments of a class that is built from a config.

    Args:
        error: The error.
        cfg: The config.

    Returns:
        One line with the key in the config and what to write; ``None`` if the error is another one, or if the config
        has no such section.
    """
    if unknown := UNKNOWN.search(str(error)):
        owner, name = unknown.groups()
        for key, section in _sections(as_mapping(cfg), ''):
            if name in section and owner in _class_names(section, cfg):
                others = sorted(arguments_of(section, cfg)[0] - set(section))
                if name in NEW_ARGUMENTS:
                    advice = f'; it is a setting of mmdet 2.x or mmseg 0.x: write {NEW_ARGUMENTS[name]}'
                else:
                    advice = did_you_mean(name, others) or f'; it takes {", ".join(others)}'
                return f'{key}: {section.get("type", owner)} has no argument {name!r}{advice}'
    elif missing := MISSING.search(str(error)):
        owner, name = missing.groups()
        for key, section in _sections(as_mapping(cfg), ''):
            if name not in section and owner in _class_names(section, cfg):
                return f'{key}: {section["type"]} needs the argument {name!r}: set {key}.{name}'
    return None


def key_of_type(name: str, cfg: Config) -> str | None:
    """Find the first section of a config with a ``type``.

    Args:
        name: The type, without a scope.
        cfg: The config.

    Returns:
        The dotted key of the section's ``type``; ``None`` if there is none.
    """
    for key, section in _sections(as_mapping(cfg), ''):
        if str(section.get('type')).split('.')[-1] == name:
            return f'{key}.type'
    return None


def _sections(value: object, key: str) -> Iterator[tuple[str, Mapping]]:
    """The sections of a config from which objects are built, each with its dotted key."""
    if isinstance(value, Mapping):
        if 'type' in value or 'dataset' in value:
            yield key, value
        entries = value.items()
    elif isinstance(value, list | tuple):
        entries = enumerate(value)
    else:
        return
    for name, entry in entries:
        yield from _sections(entry, f'{key}.{name}' if key else str(name))


def _class_names(section: Mapping, cfg: Config) -> set[str]:
    """The names of the class that is built from a section and of its bases."""
    if 'type' not in section:
        return {'DataLoader'}
    built = built_from(section, cfg)
    return {base.__name__ for base in inspect.getmro(built)} if inspect.isclass(built) else set()
