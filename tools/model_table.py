#!/usr/bin/env python
"""Write the model tables of README.md and docs/models.md from docs/models.csv.

    python tools/model_table.py

The data file holds the paper's figures, marked as the paper's, and this project's own. A row without params and macs
has them counted by get_flops.py and added to the file.
"""

import csv
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / 'docs/models.csv'
SHORT = {
    'params': 'params (M)',
    'macs': 'MACs (G)',
    'paper_box_ap': 'box AP, paper',
    'paper_mask_ap': 'mask AP, paper',
    'paper_miou': 'mIoU, paper',
    'paper_miou_ms': 'multi-scale mIoU, paper',
    'score': 'ours',
}
FULL = {
    'params': 'params (M)',
    'paper_params': 'params, paper',
    'macs': 'MACs (G)',
    'paper_macs': 'MACs, paper',
    'paper_box_ap': 'box AP, paper',
    'paper_box_ap50': '50',
    'paper_box_ap75': '75',
    'paper_mask_ap': 'mask AP, paper',
    'paper_mask_ap50': '50',
    'paper_mask_ap75': '75',
    'paper_miou': 'mIoU, paper',
    'paper_miou_ms': 'multi-scale, paper',
    'score': 'ours',
}
TABLES = {'README.md': ('configs', SHORT), 'docs/models.md': ('../configs', FULL)}


def measure(config: str) -> dict[str, str]:
    """The figures of a config, in millions and G, as they stand in the data file."""
    with tempfile.NamedTemporaryFile(suffix='.json') as file:
        command = [sys.executable, ROOT / 'tools/get_flops.py', ROOT / f'configs/{config}.py', '--json', file.name]
        subprocess.run(command, check=True)
        figures = json.loads(Path(file.name).read_text())
    return dict(params=f'{figures["params"] / 1e6:.2f}', macs=f'{figures["macs"] / 1e9:.2f}')


def table(rows: list[dict[str, str]], folder: str, columns: dict[str, str]) -> str:
    """A Markdown table; a score of ours links its log, and is a dash where there is none yet."""
    lines = [['config', *columns.values()], ['---'] * (len(columns) + 1)]
    for row in rows:
        cells = {key: row[key] for key in columns}
        cells['score'] = f'[{row["score"]}]({row["log"]})' if row['score'] else '–'
        lines.append([f'[{row["config"]}]({folder}/{row["config"]}.py)', *cells.values()])
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def insert(text: str, rows: list[dict[str, str]], folder: str, columns: dict[str, str]) -> str:
    """A document with its table renewed, between the two marks."""
    start, end = '<!-- models: tools/model_table.py writes this -->\n', '\n<!-- end of models -->'
    return re.sub(f'({start}).*?({end})', lambda m: m[1] + table(rows, folder, columns) + m[2], text, flags=re.DOTALL)


def main() -> None:
    with DATA.open(newline='') as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if not row['params']:
            row.update(measure(row['config']))
    with DATA.open('w', newline='') as file:
        writer = csv.DictWriter(file, rows[0], lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
    for name, (folder, columns) in TABLES.items():
        path = ROOT / name
        path.write_text(insert(path.read_text(), rows, folder, columns))


if __name__ == '__main__':
    main()
