#!/usr/bin/env python
"""Find all problems in the data of a config before training does: images, annotations, label maps, classes.

    python tools/check_dataset.py configs/mask_rcnn_mambaout_tiny.py --json problems.json

Each problem is listed with its file and its fix. The exit code is 1 if there is a problem. A picture shows samples with
their labels as the training pipeline makes them: look at it to find what a program cannot see. With --fix FOLDER, a
mended copy of each annotation file that can be mended is written, and the settings that use it are printed.
"""

import doctor  # noqa: F401  (says what to type if an import below fails)
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from backbones.errors import UserError
from mmengine_plugin.atomic_files import write_json
from mmengine_plugin.checks.all_data import find_problems
from mmengine_plugin.cli.arguments import config_parser
from mmengine_plugin.cli.configs import PLUGINS, load_config
from mmengine_plugin.cli.error_messages import run
from mmengine_plugin.data.image_checks import Problem
from mmengine_plugin.data.wrapped_sets import configured_sets
from mmengine_plugin.inference.drawing import draw_samples

LISTED = 3  # problems of each kind in the table; --json has all


def main() -> None:
    parser = config_parser(__doc__)
    parser.add_argument('--fix', metavar='FOLDER', help='write mended copies of annotation files to this folder')
    parser.add_argument('--json', help='write all problems to this file')
    parser.add_argument('--sheet', help='picture of samples (default: samples.png in the work directory)')
    args = parser.parse_args()
    # mmdet's, mmseg's and mmengine's deprecations, and mmdet's warnings about boxes at the border of an image
    warnings.filterwarnings('ignore', module=r'mm(det|seg|engine)\.')
    cfg = load_config(args.config, args.cfg_options)
    if cfg.default_scope not in PLUGINS or not cfg.get('train_dataloader'):
        raise UserError(
            f'{args.config} has no train_dataloader of mmdet, mmseg or timm_plugin: there is no data to check'
        )
    if args.fix and cfg.default_scope == 'mmengine':
        raise UserError('--fix mends annotation files of detection; classification has none: leave out --fix')
    init_default_scope(cfg.default_scope)
    problems = find_problems(cfg)
    if args.fix:
        fix(cfg, args.fix)
    sheet = args.sheet or Path(cfg.get('work_dir') or f'work_dirs/{Path(args.config).stem}', 'samples.png')
    try:
        draw_samples(cfg, sheet)
        print(f'samples of the training set: {sheet}')
    except Exception as error:
        Path(sheet).unlink(missing_ok=True)  # from an earlier check
        if not problems and not isinstance(error, UserError):
            raise
        if not problems:
            problems = [Problem(cfg.filename, 'training set that does not load', str(error), 'follow the message')]
        print('no picture of samples: the problems keep the training set from loading')
    print_table(problems)
    if args.json:
        write_json(args.json, dict(config=args.config, problems=[asdict(problem) for problem in problems]))
    sys.exit(1 if problems else 0)


def fix(cfg: Config, folder: str) -> None:
    """Write mended copies of annotation files, and print the settings that use them."""
    if cfg.default_scope == 'mmseg':
        print('--fix mends annotation files of detection; tools/convert_dataset.py mends label maps')
        return
    from mmdet_plugin.data.mending import print_settings, write_mended

    datasets = [DATASETS.build(dict(config, lazy_init=True)) for _, config in configured_sets(cfg)]
    print_settings(cfg, write_mended(datasets, folder))


def print_table(problems: list[Problem]) -> None:
    """Print each kind of problem with how often it occurs, its fix, and the first files."""
    kinds: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        kinds.setdefault((problem.kind, problem.fix), []).append(problem)
    for (kind, fix), alike in kinds.items():
        print(f'{len(alike):7}  {kind}\n{"fix":>7}: {fix}')
        for problem in alike[:LISTED]:
            print(f'{"":9}{problem.file}: {problem.detail}')
        if len(alike) > LISTED:
            print(f'{"":9}and {len(alike) - LISTED} more')
    if len(problems) == 1:
        print('1 problem found')
    else:
        print(f'{len(problems) or "no"} problems found')


if __name__ == '__main__':
    run(main)
