#!/usr/bin/env python
"""Write the model tables of README.md and docs/models.md from docs/models.csv.

    python docs/model_table.py

The data file holds the figures that the models' authors published, in columns that say so, and this project's own. If a
row has no params and macs, get_flops.py counts them, and they are added to the file.
"""

import argparse
import csv
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / 'docs/models.csv'
COLUMNS = {
    'params': 'params (M)',
    'published_params': 'params, published',
    'macs': 'MACs (G)',
    'published_macs': 'MACs, published',
    'published_box_ap': 'box AP, published',
    'published_box_ap50': '50',
    'published_box_ap75': '75',
    'published_mask_ap': 'mask AP, published',
    'published_mask_ap50': '50',
    'published_mask_ap75': '75',
    'published_miou': 'mIoU, published',
    'published_miou_ms': 'multi-scale mIoU, published',
    'score': 'ours',
}
SHORT = ('params', 'macs', 'published_box_ap', 'published_mask_ap', 'published_miou', 'published_miou_ms', 'score')
TABLES = {  # path to the root, columns, and a part of the names of the configs that are listed
    'README.md': ('', SHORT, 'mambaout'),
    'docs/models.md': ('../', tuple(COLUMNS), ''),
}


def measure(config: str) -> dict[str, str]:
    """Count the parameters of a config in millions and its MACs in G, formatted as in the data file."""
    with tempfile.NamedTemporaryFile(suffix='.json') as file:
        command = [sys.executable, ROOT / 'tools/get_flops.py', ROOT / f'configs/{config}.py', '--json', file.name]
        subprocess.run(command, check=True)
        figures = json.loads(Path(file.name).read_text())
    return dict(params=f'{figures["params"] / 1e6:.2f}', macs=f'{figures["macs"] / 1e9:.2f}')


def tables(rows: list[dict[str, str]], root: str, columns: Sequence[str], models: str) -> str:
    """A Markdown table for each task; a score of ours links to its log, and is a dash if there is none yet."""
    blocks = []
    for task, other in (('mask_rcnn', 'miou'), ('upernet', '_ap')):
        kept = [key for key in columns if other not in key]
        lines = [['config', *(COLUMNS[key] for key in kept)], ['---'] * (len(kept) + 1)]
        for row in rows:
            if task in row['config'] and models in row['config']:
                score = f'[{row["score"]}]({root}{row["log"]})' if row['score'] else '–'
                link = f'[{row["config"]}]({root}configs/{row["config"]}.py)'
                lines.append([link, *(score if key == 'score' else row[key] or '–' for key in kept)])
        blocks.append('\n'.join(f'| {" | ".join(line)} |' for line in lines))
    return '\n\n'.join(blocks)


def insert(text: str, rows: list[dict[str, str]], *arguments: object) -> str:
    """Replace the tables of a document, which stand between two marks."""
    start, end = '<!-- models: docs/model_table.py writes this -->\n', '\n<!-- end of models -->'
    return re.sub(f'({start}).*?({end})', lambda m: m[1] + tables(rows, *arguments) + m[2], text, flags=re.DOTALL)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with DATA.open(newline='') as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if not row['params']:
            row.update(measure(row['config']))
    with DATA.open('w', newline='') as file:
        writer = csv.DictWriter(file, rows[0], lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
    for name, arguments in TABLES.items():
        path = ROOT / name
        path.write_text(insert(path.read_text(), rows, *arguments))


if __name__ == '__main__':
    main()
