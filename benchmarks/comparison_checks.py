"""The arguments of a comparison, checked before anything is measured."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict
from torchvision.datasets.folder import is_image_file

from backbones.errors import UserError
from mmengine_plugin.atomic_files import make_folder
from mmengine_plugin.cli.arguments import batch_shape
from mmengine_plugin.cli.configs import load_config
from mmengine_plugin.data.folders import files_below
from mmengine_plugin.engine.changed_settings import flatten

from .comparison import FIELD_IMAGES, SETTINGS, TASKS, Settings
from .whole_models import SHAPES

PADDING = 32  # pixels


def check(args: argparse.Namespace) -> tuple[dict[str, Config], dict[str, str], Settings, dict]:
    """Read what the arguments of ``tools/compare.py`` name.

    Returns:
        The configs by the names of the models; the checkpoints of those models that have one; the settings; and the
        results, with scores, and with what an earlier run into the same files has measured.

    Raises:
        UserError: If an argument cannot be used.
    """
    if args.out.suffix == '.py':
        raise UserError(f'{args.out} would be the name of the results: name OUT first, and then the configs')
    configs = load_configs(args.configs)
    if {'size', 'step'} & set(args.parts):
        check_heads(configs)
    first = next(iter(configs.values()))
    checkpoints = _for_each(configs, args.checkpoints, '--checkpoints')
    if checkpoints and 'receptive' not in args.parts:
        raise UserError('--checkpoints are of use to the part receptive alone: name it in --parts, or leave them out')
    scores = {name: read_scores(path) for name, path in _for_each(configs, args.scores, '--scores').items()}
    if args.field_size % math.lcm(args.stride, PADDING):
        raise UserError(
            f'--field-size {args.field_size} must be a multiple of --stride {args.stride} and of {PADDING}, to which '
            'detectors pad images'
        )
    shape = args.shape or SHAPES[TASKS[first.default_scope]][0]
    settings = Settings(
        shape=batch_shape(shape, '--shape', 'step' in args.parts and 'UPerHead' in _heads(first.model)),
        rounds=args.rounds,
        sizes=sorted(set(args.sizes)),
        stride=args.stride,
        field_size=args.field_size,
        images=find_images(args.images)[:FIELD_IMAGES] if args.images else [],
    )
    make_folder(args.out.parent)
    results = earlier_results(Path(f'{args.out}.json'), dict(zip(configs, args.configs, strict=True)))
    if {'size', 'step'} & set(args.parts):
        results['heads'] = differences(configs)
    for name, found in scores.items():
        results['models'][name]['scores'] = found
    return configs, checkpoints, settings, results


def load_configs(paths: Sequence[str]) -> dict[str, Config]:
    """Read configs; the name of a model is its file's, or the whole path where two files have one name."""
    stems = [Path(path).stem for path in paths]
    names = [path if stems.count(stem) > 1 else stem for path, stem in zip(paths, stems, strict=True)]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f'{name} is named twice: name each config once')
    configs = {name: load_config(path, {}) for name, path in zip(names, paths, strict=True)}
    for path, cfg in zip(paths, configs.values(), strict=True):
        if cfg.default_scope not in TASKS or 'backbone' not in cfg.model:
            raise UserError(f'{path}: only models of mmdet and mmseg with a model.backbone can be compared')
    return configs


def check_heads(configs: Mapping[str, Config]) -> None:
    """Raise a :class:`UserError` if the heads of the configs are of several kinds."""
    kinds = {name: (cfg.default_scope, *_heads(cfg.model)) for name, cfg in configs.items()}
    first = next(iter(kinds))
    for name, kind in kinds.items():
        if kind != kinds[first]:
            raise UserError(
                f'{name} is {" ".join(kind)}, and {first} is {" ".join(kinds[first])}: sizes and times of other heads '
                'say nothing about backbones. Compare configs with one kind of head, or add --parts receptive growth'
            )


def _heads(model: ConfigDict) -> list[str]:
    """The names of the classes of a model and of its main head."""
    heads = model.get('decode_head') or []
    return [str(part['type']) for part in [model, *(heads if isinstance(heads, list) else [heads])] if part]


def _for_each(configs: Mapping[str, Config], files: Sequence[str] | None, option: str) -> dict[str, str]:
    """The files of an option by the names of the models, without those that are given as ``-``."""
    if files is None:
        return {}
    if len(files) != len(configs):
        raise UserError(
            f'{option} has {len(files)} files for {len(configs)} configs: write one for each config, in the same '
            'order, and - for a config without one'
        )
    found = {name: file for name, file in zip(configs, files, strict=True) if file != '-'}
    for file in found.values():
        if not Path(file).is_file():
            raise UserError(f'{option}: {file} is not there (seen from {Path.cwd()}); write - for a config without one')
    return found


def read_scores(path: str) -> dict[str, float]:
    """Read scores as ``tools/test.py --json`` writes them."""
    try:
        scores = json.loads(Path(path).read_bytes())
    except ValueError:
        scores = None
    if not isinstance(scores, dict) or not scores or not all(isinstance(v, int | float) for v in scores.values()):
        raise UserError(f'--scores: {path} holds no scores: tools/test.py CONFIG CHECKPOINT --json {path} writes them')
    return scores


def find_images(folder: Path) -> list[str]:
    """The paths of all images below a folder, sorted."""
    if not folder.is_dir():
        raise UserError(f'--images {folder} is not a folder (seen from {Path.cwd()}): name a folder of images')
    found = sorted(str(folder / name) for name in files_below(str(folder)) if is_image_file(name))
    if not found:
        raise UserError(f'--images {folder} holds no image: name a folder of images, such as data/coco/val2017')
    return found


def differences(configs: Mapping[str, Config]) -> dict[str, list[str]]:
    """The settings by which models differ from the first one outside their backbones, by the names of the models.

    Numbers of input channels and checkpoints belong to a backbone, and so does the normalisation of its images.
    """
    of_backbone = re.compile(r'model\.backbone\b.*|.*\.(in_channels|init_cfg|mean|std|bgr_to_rgb|rgb_to_bgr)\b.*')
    heads = {
        name: {key: value for key, value in flatten(cfg.model, 'model') if not of_backbone.fullmatch(key)}
        for name, cfg in configs.items()
    }
    first = next(iter(heads.values()))
    found = {
        name: [
            f'{key} {first.get(key, "None")} -> {head.get(key, "None")}'
            for key in first | head
            if first.get(key, 'None') != head.get(key, 'None')
        ]
        for name, head in heads.items()
    }
    return {name: lines for name, lines in found.items() if lines}


def earlier_results(path: Path, configs: Mapping[str, str]) -> dict:
    """Read the results of an earlier run with the same models, or make new ones.

    Args:
        path: Path of the results.
        configs: The paths of the configs by the names of the models.
    """
    if not path.is_file():
        return dict(configs=dict(configs), parts={}, models={name: {} for name in configs})
    try:
        found = json.loads(path.read_bytes())
        known, models = set(found['parts']) <= set(SETTINGS), dict(found['models'])
        earlier = [str(config) for config in dict(found['configs']).values()]
    except (KeyError, TypeError, ValueError):
        known = False
    if not known:
        raise UserError(f'{path} is not the result of a comparison by this version: name another OUT')
    if list(map(os.path.realpath, earlier)) != list(map(os.path.realpath, configs.values())):
        raise UserError(
            f'{path} compares {", ".join(earlier)} (seen from {Path.cwd()}): name the same configs in the same order, '
            'or another OUT'
        )
    # the paths may be written in another way, and the names with them
    return found | dict(configs=dict(configs), models=dict(zip(configs, models.values(), strict=True)))
