#!/usr/bin/env python
"""Score a checkpoint: box and mask AP for a detector, mIoU for a segmentor, top-1 and top-5 for a classifier."""

import argparse
import doctor  # noqa: F401  (says what to type if an import below fails)
import importlib

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.runner import Runner

from backbones.errors import UserError
from mmengine_plugin.atomic_files import write_json
from mmengine_plugin.cli.arguments import positive, run_parser, share
from mmengine_plugin.cli.configs import load_run
from mmengine_plugin.cli.error_messages import run
from mmengine_plugin.engine.record_hook import RecordHook
from mmengine_plugin.inference.drawing import PicturesHook

DUMPS = dict(mmdet='DumpDetResults', mmseg='DumpSegResults')


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', help='write the predictions to this .pkl or .pickle file')
    parser.add_argument('--json', help='write the scores to this file')
    parser.add_argument(
        '--record',
        help='write the record of this test, by which others can check the scores, to this .json file or folder '
        '(default: record.json beside the log)',
    )
    parser.add_argument('--show', action='store_true', help='show each prediction in a window')
    parser.add_argument('--show-dir', help='draw each prediction beside its ground truth into this folder')
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds for which --show shows each picture (default: 2)'
    )
    parser.add_argument('--tta', action='store_true', help='use test-time augmentation')
    parser.add_argument(
        '--real-labels',
        help='score a classifier by the reassessed labels of ImageNet in this real.json; timm: in the file of timm',
    )
    parser.add_argument('--img-size', type=positive, help='classify images of this height and width')
    parser.add_argument(
        '--crop-pct', type=share, help="share of a classifier's image that the crop at its centre keeps"
    )
    args = parser.parse_args()
    cfg = load_run(args)
    cfg.load_from = args.checkpoint
    for hook in cfg.custom_hooks:
        hook.pop('reinitialise', None)  # random weights are not worth a test
    if args.tta:
        if 'tta_model' not in cfg:
            raise UserError(
                f'--tta: {cfg.filename} has no tta_model and tta_pipeline; mmdet cannot merge masks under TTA, and '
                'classifiers have none'
            )
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
        cfg.model = dict(cfg.tta_model, module=cfg.model)
    if args.real_labels or args.img_size or args.crop_pct:
        set_classification(cfg, args)
    record = RecordHook(cfg, args.record, args.tta)
    if args.out:
        if not args.out.endswith(('.pkl', '.pickle')):
            raise UserError(f'--out {args.out}: the name must end with .pkl or .pickle')
        dump = dict(type=DUMPS.get(cfg.default_scope, 'DumpResults'), out_file_path=args.out)
        if cfg.default_scope == 'mmseg':
            importlib.import_module('mmseg_plugin.scores.dump_results')  # the config may not import the plugin
        evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, list) else [cfg.test_evaluator]
        cfg.test_evaluator = [*evaluators, dump]
    if (args.show or args.show_dir) and cfg.default_scope not in DUMPS:
        raise UserError('--show and --show-dir draw detections and label maps; tools/predict.py draws classes')
    runner = Runner.from_cfg(cfg)
    runner.register_hook(record)
    if args.show or args.show_dir:
        runner.register_hook(PicturesHook(args.show_dir, args.show, args.wait_time))
    scores = {name: float(value) for name, value in runner.test().items()}
    if is_main_process():
        for name, score in scores.items():
            print(f'{name:24} {score:8.4f}')
        if args.json:
            write_json(args.json, scores)
        print(f'record: {record.write(runner, scores)}')


def set_classification(cfg: Config, args: argparse.Namespace) -> None:
    """Set what timm's validate.py has options for."""
    transform = cfg.test_dataloader.dataset.get('transform')
    if transform is None:
        raise UserError(
            f'--real-labels, --img-size and --crop-pct are for classifiers, and {cfg.filename} is of another kind'
        )
    if args.real_labels:
        cfg.test_evaluator.real_labels = args.real_labels
    if args.img_size:
        transform.input_size = (3, args.img_size, args.img_size)
    if args.crop_pct:
        transform.crop_pct = args.crop_pct


if __name__ == '__main__':
    run(main)
