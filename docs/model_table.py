#!/usr/bin/env python
"""Write the tables of README.md, docs/models.md and docs/comparison.md from the data files.

    python docs/model_table.py [--memory]

docs/models.csv has the figures that the models' authors published, in columns that say so, and this project's own. If a
row lacks params or macs, get_flops.py counts them, and they are added to the file; --memory does the same with kept,
which takes a training step of each model. The scores of this project come from benchmarks/results/records, after
check_records.py has found them good. docs/published_rows.csv has what others published for other backbones.
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
OTHERS = ROOT / 'docs/published_rows.csv'
RECORDS = ROOT / 'benchmarks/results/records'
SCOPES = dict(mmdet='COCO', mmseg='ADE20K')  # data set, by a config's default_scope
SCORES = {'coco/bbox_mAP': 100, 'coco/segm_mAP': 100, 'mIoU': 1}  # by their names in a record, and out of what
COLUMNS = {
    'params': 'params (M)',
    'published_params': 'params, published',
    'macs': 'MACs (G)',
    'published_macs': 'MACs, published',
    'kept': 'kept (GB)',
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
TABLES = {  # path to the root, columns, and a pattern of the configs that are listed: README.md has the paper's
    'README.md': ('', SHORT, r'(mask_rcnn|upernet)_mambaout_\w+(?<!_3x)'),
    'docs/models.md': ('../', tuple(COLUMNS), '.*'),
}
OTHER_COLUMNS = {
    'COCO': dict(
        recipe='heads and schedule', params='params (M)', macs='FLOPs (G)', box_ap='box AP', mask_ap='mask AP'
    ),
    'ADE20K': dict(
        recipe='heads and schedule', params='params (M)', macs='FLOPs (G)', miou='mIoU', miou_ms='multi-scale mIoU'
    ),
}


def measure(row: dict[str, str], memory: bool) -> dict[str, str]:
    """Fill in what a row lacks.

    Args:
        row: Row of the data file.
        memory: Whether to count what a training step keeps, too.

    Returns:
        The row with ``data``; ``params`` in millions, ``macs`` in G and, if asked for, ``kept`` in GB.
    """
    row, config = dict(row), ROOT / f'configs/{row["config"]}.py'
    if not row['data']:
        from mmengine.config import Config  # which takes seconds to import, and only a new row needs it

        row['data'] = SCOPES[Config.fromfile(config).default_scope]
    lacking = [key for key in ('params', 'macs', *(['kept'] if memory else [])) if not row[key]]
    if lacking:
        with tempfile.NamedTemporaryFile(suffix='.json') as file:
            command = [sys.executable, ROOT / 'tools/get_flops.py', config, '--json', file.name]
            subprocess.run([*command, *(['--memory'] if 'kept' in lacking else [])], check=True)
            figures = json.loads(Path(file.name).read_text())
        for key in lacking:
            name, unit = dict(params=('params', 1e6), macs=('macs', 1e9), kept=('kept_bytes', 1e9))[key]
            row[key] = f'{figures[name] / unit:.2f}'
    return row


def our_scores(folder: Path = RECORDS) -> dict[str, tuple[str, str]]:
    """The scores of this project, such as ``'45.1 / 41.0'``, and their records' paths, by the names of the configs."""
    found = {}
    for path in sorted(folder.glob('*.json')):
        record = json.loads(path.read_text())
        name = Path(record['config']['path']).relative_to('configs').with_suffix('').as_posix()
        points = [record['scores'][key] * unit for key, unit in SCORES.items() if key in record['scores']]
        found[name] = ' / '.join(f'{value:.1f}' for value in points), f'benchmarks/results/records/{path.name}'
    return found


def markdown(lines: list[list[str]]) -> str:
    """A table in Markdown; the first line has the titles."""
    return '\n'.join(f'| {" | ".join(line)} |' for line in [lines[0], ['---'] * len(lines[0]), *lines[1:]])


def tables(
    rows: list[dict[str, str]], scores: dict[str, tuple[str, str]], root: str, columns: Sequence[str], pattern: str
) -> str:
    """A table for each data set; a score of ours links to its record, and is a dash if there is none yet."""
    blocks = []
    for data, other in (('COCO', 'miou'), ('ADE20K', '_ap')):
        shown = [key for key in columns if other not in key]
        lines = [['config', *(COLUMNS[key] for key in shown)]]
        for row in rows:
            name = row['config']
            if row['data'] == data and re.fullmatch(pattern, name):
                score = f'[{scores[name][0]}]({root}{scores[name][1]})' if name in scores else '–'
                cells = (score if key == 'score' else row[key] or '–' for key in shown)
                lines.append([f'[{name}]({root}configs/{name}.py)', *cells])
        blocks.append(markdown(lines))
    return '\n\n'.join(blocks)


def tables_of_others(rows: list[dict[str, str]]) -> str:
    """A table for each data set of what others published; each row links to the page that has it."""
    blocks = []
    for data, columns in OTHER_COLUMNS.items():
        lines = [['backbone', *columns.values(), 'source']]
        for row in rows:
            if row['data'] == data:
                link = f'[{row["repository"]}](https://github.com/{row["repository"]})'
                lines.append([row['backbone'], *(row[key] or '–' for key in columns), link])
        blocks.append(markdown(lines))
    return '\n\n'.join(blocks)


def insert(text: str, written: str, mark: str = 'models') -> str:
    """Replace what stands between two marks of a document."""
    start, end = f'<!-- {mark}: docs/model_table.py writes this -->\n', f'\n<!-- end of {mark} -->'
    return re.sub(f'({start}).*?({end})', lambda m: m[1] + written + m[2], text, flags=re.DOTALL)


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a data file."""
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--memory', action='store_true', help='count what a training step of each model keeps')
    args = parser.parse_args()
    if any(RECORDS.glob('*.json')) and subprocess.run([sys.executable, ROOT / 'docs/check_records.py']).returncode:
        sys.exit('error: the tables have the scores of good records alone: mend or remove those that are named above')
    rows = [measure(row, args.memory) for row in read(DATA)]
    with DATA.open('w', newline='') as file:
        writer = csv.DictWriter(file, rows[0], lineterminator='\n')
        writer.writeheader()
        writer.writerows(rows)
    for name, arguments in TABLES.items():
        path = ROOT / name
        path.write_text(insert(path.read_text(), tables(rows, our_scores(), *arguments)))
    page = ROOT / 'docs/comparison.md'
    page.write_text(insert(page.read_text(), tables_of_others(read(OTHERS)), 'published by others'))


if __name__ == '__main__':
    main()
