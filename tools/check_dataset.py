#!/usr/bin/env python
"""Find every fault of a config's data before training does: images, annotations, label maps, class names.

    python tools/check_dataset.py configs/mask_rcnn_mambaout_tiny.py --json faults.json

Each fault comes with its file and its cure; the exit code is 1 if there is any. A sheet shows samples with their labels
as the training pipeline makes them: what no program can see is seen there.
"""

import doctor  # noqa: F401  (says what to type if an import below fails)
import importlib
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from backbones.errors import UserError
from mmengine_plugin import launch
from mmengine_plugin.faults import Fault
from mmengine_plugin.files import write_json
from mmengine_plugin.pictures import draw_samples

LISTED = 3  # files of each kind; --json has all


def main() -> None:
    parser = launch.config_parser(__doc__)
    parser.add_argument('--json', help='write all faults to this file')
    parser.add_argument('--sheet', help='picture of samples (default: samples.png in the work directory)')
    args = parser.parse_args()
    warnings.filterwarnings('ignore', module=r'mm(det|seg|engine)\.')  # what will be deprecated, boxes at the border
    cfg = launch.load_config(args.config, args.cfg_options)
    if cfg.default_scope not in ('mmdet', 'mmseg') or not cfg.get('train_dataloader'):
        raise UserError(f'{args.config} has no train_dataloader of mmdet or mmseg: there is no data to check')
    init_default_scope(cfg.default_scope)
    faults = find_faults(cfg)
    sheet = args.sheet or Path(cfg.get('work_dir') or f'work_dirs/{Path(args.config).stem}', 'samples.png')
    try:
        draw_samples(cfg, sheet)
        print(f'samples of the training set: {sheet}')
    except Exception as error:
        Path(sheet).unlink(missing_ok=True)  # an older one
        if not faults and not isinstance(error, UserError):
            raise
        faults = faults or [Fault(cfg.filename, 'training set that does not load', str(error), 'see there')]
        print('no samples: the faults keep the training set from loading')
    print_table(faults)
    if args.json:
        write_json(args.json, dict(config=args.config, faults=[asdict(fault) for fault in faults]))
    sys.exit(1 if faults else 0)


def find_faults(cfg: Config) -> list[Fault]:
    """All faults of the data sets in a config's data loaders; each set is read once."""
    check = importlib.import_module(f'{cfg.default_scope}_plugin.check').check
    configs, datasets, faults = [], [], []
    for loader in filter(cfg.get, ('train_dataloader', 'val_dataloader', 'test_dataloader')):
        for config in leaves(cfg[loader].dataset):
            if config not in configs:
                configs.append(config)
                try:
                    datasets.append(DATASETS.build(dict(config, lazy_init=True)))
                except UserError as error:
                    faults.append(Fault(cfg.filename, f'refused {loader}', str(error), 'change the config'))
    return list(dict.fromkeys(faults + check(datasets)))


def leaves(config: dict) -> list[dict]:
    """The data sets within ConcatDataset, RepeatDataset and others that hold data sets."""
    inner = [*config.get('datasets', ()), *filter(None, [config.get('dataset')])]
    return [leaf for child in inner for leaf in leaves(child)] if inner else [config]


def print_table(faults: list[Fault]) -> None:
    """Each kind of fault with its number, its cure, and the first files."""
    kinds = {}
    for fault in faults:
        kinds.setdefault((fault.kind, fault.cure), []).append(fault)
    for (kind, cure), alike in kinds.items():
        print(f'{len(alike):7}  {kind}\n{"cure":>7}: {cure}')
        for fault in alike[:LISTED]:
            print(f'{"":9}{fault.file}: {fault.what}')
        if len(alike) > LISTED:
            print(f'{"":9}and {len(alike) - LISTED} more')
    print(f'{len(faults) or "no"} fault{"s" * (len(faults) != 1)} found')


if __name__ == '__main__':
    launch.run(main)
