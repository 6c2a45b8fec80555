#!/usr/bin/env python
"""Train a config from several seeds, one after the other, and report how far the scores spread.

    python tools/sweep.py CONFIG --seeds 0 1 2 --work-dir work_dirs/sweep
    python tools/sweep.py --report work_dirs/sweep work_dirs/another_sweep

Each seed is a run of train.py in its own folder, such as work_dirs/sweep/seed_0. The same command goes on with a sweep
that was interrupted: complete seeds are not repeated, and the others are resumed. A signal stops the present run as it
stops train.py (exit code 75). At the end, a table has the final and the best score of each seed, their mean, standard
deviation (of a sample) and range. --report prints the tables of complete seeds alone; for several sweeps, also their
differences from the first one.
"""

import argparse
import doctor  # noqa: F401  (says what to type if an import below fails)
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from backbones.errors import UserError
from mmengine_plugin.analysis import seeds as analysis
from mmengine_plugin.analysis.sweep_record import SCORES, begin_seed, check_seeds, check_settings
from mmengine_plugin.atomic_files import make_folder, write_json
from mmengine_plugin.cli.arguments import config_parser, positive
from mmengine_plugin.cli.configs import load_config
from mmengine_plugin.cli.error_messages import run
from mmengine_plugin.cli.trainings import Trainings
from mmengine_plugin.engine.signals import EXIT_CODE

HERE = Path(__file__).resolve().parent


def sweep(args: argparse.Namespace, seeds: Sequence[int], work_dir: Path) -> None:
    """Train all seeds that are not complete yet."""
    options = args.cfg_options
    if any(option.startswith('randomness.seed=') for option in options):
        raise UserError('--cfg-options randomness.seed: the seeds of a sweep are set by --seeds')
    parsed = config_parser('').parse_args([args.config, '--cfg-options', *options, f'randomness.seed={seeds[0]}'])
    cfg = load_config(args.config, parsed.cfg_options)
    if not cfg.get('val_dataloader') or not cfg.get('val_evaluator'):
        raise UserError(f'{args.config} has no val_dataloader and val_evaluator, whose scores a sweep compares')
    if args.scores:
        analysis.check_evaluator(cfg, args.scores)
    make_folder(work_dir)
    program = [sys.executable, HERE / 'train.py', args.config]
    if args.gpus:
        program = ['bash', HERE / 'dist_train.sh', args.config, str(args.gpus)]
    with Trainings(work_dir) as trainings:
        check_settings(work_dir, cfg, flags=sorted(args.flags), gpus=args.gpus)
        check_seeds(work_dir, seeds)
        for seed in seeds:
            folder = work_dir / f'seed_{seed}'
            if not (folder / SCORES).exists():
                begin_seed(work_dir, seed)
                print(f'seed {seed}: {folder}', flush=True)
                setting = f'randomness.seed={seed}'
                command = [*program, '--work-dir', folder, '--resume', *args.flags, '--cfg-options', *options, setting]
                check_end(trainings.run(command), seed)
                write_json(folder / SCORES, analysis.validations(folder))
            analysis.read_scores(folder, args.scores)  # a wrong name stops the sweep at its first seed


def check_end(code: int, seed: int) -> None:
    """End the sweep, too, if a training has not ended well."""
    if code == EXIT_CODE:
        print(f'stopped at seed {seed}; the same command goes on from here')
        sys.exit(EXIT_CODE)
    if code < 0:
        raise UserError(f'the training of seed {seed} was killed by signal {-code}; the same command goes on from here')
    if code:
        sys.exit(code)  # the training has printed the reason


def report(sweeps: Mapping[str, analysis.Scores], out: Path | None) -> None:
    """Print the tables of sweeps, and write their numbers as JSON."""
    for name, scores in sweeps.items():
        print(f'\n{name}\n\n{analysis.table(scores)}')
    if len(sweeps) > 1:
        print(f'\ndifferences, with standard errors\n\n{analysis.comparison(sweeps)}')
    if out:
        write_json(out, dict(sweeps=sweeps, differences=analysis.differences(sweeps)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', nargs='?', help='config file')
    parser.add_argument('--seeds', type=int, nargs='+', help='two or more (default: 0 1 2)')
    parser.add_argument('--work-dir', type=Path, help='(default: work_dirs/<name of the config>_seeds)')
    parser.add_argument('--gpus', type=positive, help='train by dist_train.sh, on as many GPUs')
    parser.add_argument('--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='as for train.py')
    for flag in ('--amp', '--no-amp', '--auto-scale-lr', '--trust-checkpoint'):
        parser.add_argument(flag, dest='flags', action='append_const', const=flag, default=[], help='as for train.py')
    parser.add_argument('--report', type=Path, nargs='+', metavar='DIR', help='train nothing: folders of sweeps')
    parser.add_argument('--scores', nargs='+', default=[], metavar='NAME', help='scores to report (default: all)')
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write the numbers to this file')
    args = parser.parse_args()
    if bool(args.config) == bool(args.report):
        raise UserError('name either a config or, with --report, folders of sweeps')
    seeds = list(dict.fromkeys(args.seeds or ()))
    if args.json and args.json.is_dir():
        raise UserError(f'--json {args.json} is a folder: name a file')
    if args.json:  # before anything is trained
        make_folder(args.json.parent)
    if args.report:
        if len({folder.resolve() for folder in args.report}) < len(args.report):
            raise UserError(f'--report {" ".join(map(str, args.report))} names a folder twice')
        report({str(folder): analysis.read_sweep(folder, seeds, args.scores) for folder in args.report}, args.json)
        return
    seeds = seeds or [0, 1, 2]
    if len(seeds) < 2 or min(seeds) < 0:
        raise UserError(f'--seeds {" ".join(map(str, seeds))}: one seed: no spread. Name two or more, from 0 on')
    work_dir = args.work_dir or Path('work_dirs', f'{Path(args.config).stem}_seeds')
    sweep(args, seeds, work_dir)
    report({str(work_dir): analysis.read_sweep(work_dir, seeds, args.scores)}, args.json)


if __name__ == '__main__':
    run(main)
