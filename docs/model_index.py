#!/usr/bin/env python
"""Write model-index.yml and configs/metafile.yml, which OpenMIM and mmengine read, from docs/models.csv.

    python docs/model_index.py

A metafile may also hold scores (Results) and the address of a checkpoint (Weights). Both would have to be of this
project, and there are none yet. What others published is left out, since it belongs to other weights.
"""

import argparse
import csv
import re
import sys
from pathlib import Path

import yaml
from mmengine.config import Config
from mmengine.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]
INDEX, METAFILE = ROOT / 'model-index.yml', ROOT / 'configs/metafile.yml'
HEADER = '# docs/model_index.py writes this from docs/models.csv\n'


def model(row: dict[str, str]) -> dict:
    """The entry of a model.

    Args:
        row: Its row in the data file.

    Returns:
        The entry, in the form of a metafile. FLOPs are multiply-accumulates, as in upstream's metafiles.
    """
    cfg = Config.fromfile(ROOT / f'configs/{row["config"]}.py')
    length, unit = ('max_epochs', 'Epochs') if 'max_epochs' in cfg.train_cfg else ('max_iters', 'Iterations')
    return {
        'Name': Path(row['config']).name,
        'In Collection': cfg.model.backbone.type,
        'Config': f'configs/{row["config"]}.py',
        'Metadata': {
            'Training Data': row['data'],
            'Batch Size': cfg.auto_scale_lr.base_batch_size,
            unit: cfg.train_cfg[length],
            'Architecture': [cfg.model.backbone.type, cfg.model.type],
            'Parameters': round(float(row['params']) * 1e6),
            'FLOPs': round(float(row['macs']) * 1e9),
        },
    }


def collection(backbone: str) -> dict:
    """The entry of a backbone, with the paper that its module names first."""
    module = sys.modules[MODELS.get(backbone).__module__]
    paper = re.search(r'arXiv ([\d.]+\d)', module.__doc__)[1]
    return {'Name': backbone, 'Metadata': {'Architecture': [backbone]}, 'Paper': f'https://arxiv.org/abs/{paper}'}


def metafile(rows: list[dict[str, str]]) -> str:
    """The text of ``configs/metafile.yml``."""
    models = [model(row) for row in rows]
    backbones = dict.fromkeys(entry['In Collection'] for entry in models)
    content = {'Collections': [collection(name) for name in backbones], 'Models': models}
    return HEADER + yaml.safe_dump(content, sort_keys=False)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with (ROOT / 'docs/models.csv').open(newline='') as file:
        METAFILE.write_text(metafile(list(csv.DictReader(file))))
    INDEX.write_text(HEADER + yaml.safe_dump({'Import': ['configs/metafile.yml']}))


if __name__ == '__main__':
    main()
