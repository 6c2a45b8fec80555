#!/usr/bin/env python
"""Show why a model scores what it does, from the predictions that tools/test.py --out writes.

    python tools/test.py CONFIG CHECKPOINT --out results.pkl
    python tools/analyze_results.py CONFIG results.pkl

For a detector, it finds the scores of each class, TIDE's kinds of errors, confused classes, and the worst images. For a
segmentor, it finds the same but for TIDE's errors. Short tables are printed; figures and analysis.json have the rest.
"""

import doctor  # noqa: F401  (says what to type if an import below fails)
import importlib
import warnings
from pathlib import Path

from mmengine.registry import init_default_scope

from backbones.errors import UserError
from mmengine_plugin.atomic_files import make_folder, write_json
from mmengine_plugin.cli.arguments import config_parser
from mmengine_plugin.cli.configs import load_config
from mmengine_plugin.cli.error_messages import run


def main() -> None:
    parser = config_parser(__doc__)
    parser.add_argument('results', help="the .pkl file of tools/test.py --out, or a detector's .json in COCO's format")
    parser.add_argument('--out-dir', help='folder for analysis.json and the figures (default: <results>_analysis)')
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='leave out detections with a lower score in confusions and worst images (default: 0.3)',
    )
    args = parser.parse_args()
    # mmdet's, mmseg's and mmengine's deprecations, and mmdet's warnings about boxes at the border of an image
    warnings.filterwarnings('ignore', module=r'mm(det|seg|engine)\.')
    if not 0 <= args.score_thr <= 1:
        raise UserError(f'--score-thr {args.score_thr} must be from 0 to 1')
    cfg = load_config(args.config, args.cfg_options)
    if cfg.default_scope not in ('mmdet', 'mmseg') or not cfg.get('test_dataloader') or not cfg.get('test_evaluator'):
        raise UserError(f'{args.config} has no test_dataloader and test_evaluator of mmdet or mmseg')
    init_default_scope(cfg.default_scope)
    out_dir = Path(args.out_dir or Path(args.results).with_suffix('').as_posix() + '_analysis')
    analyze = importlib.import_module(f'{cfg.default_scope}_plugin.analysis.error_analysis').analyze
    make_folder(out_dir)
    report = analyze(cfg, args.results, out_dir, args.score_thr)
    write_json(out_dir / 'analysis.json', report.content)
    print(', '.join(f'{name} {value:g}' for name, value in report.scores.items()))
    for text in report.tables:
        print(f'\n{text}')
    print(f'\n{out_dir}: analysis.json, {", ".join(report.files)}')


if __name__ == '__main__':
    run(main)
