#!/usr/bin/env python
"""Train a detector, a segmentor or a classifier from its config."""

import doctor  # noqa: F401  (says what to type if an import below fails)

from mmengine.config import Config
from mmengine.runner import Runner
from torch import cuda

from backbones.errors import UserError
from mmengine_plugin.cli.arguments import run_parser
from mmengine_plugin.cli.configs import load_run, warn_of_batch_size
from mmengine_plugin.cli.error_messages import run
from mmengine_plugin.engine.starts_hook import StartsHook


def main() -> None:
    parser = run_parser(__doc__)
    parser.add_argument(
        '--amp', action='store_true', help='train in mixed precision, as the configs of the paper do on GPUs'
    )
    parser.add_argument('--no-amp', action='store_true', help='train in fp32')
    parser.add_argument(
        '--resume', nargs='?', const='auto', help='resume from this checkpoint (default: the newest one of the run)'
    )
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate to the global batch')
    args = parser.parse_args()
    cfg = load_run(args)
    if args.amp and args.no_amp:
        raise UserError('--amp and --no-amp exclude each other')
    if args.amp or args.no_amp:
        set_precision(cfg, amp=args.amp)
    if args.auto_scale_lr:
        if 'base_batch_size' not in cfg.get('auto_scale_lr', {}):
            raise UserError(f'--auto-scale-lr: {cfg.filename} has no auto_scale_lr.base_batch_size')
        if cfg.optim_wrapper.get('accumulative_counts', 1) > 1:
            raise UserError('--auto-scale-lr does not count accumulated steps: set optim_wrapper.optimizer.lr instead')
        cfg.auto_scale_lr.enable = True
    if args.resume == 'auto':  # ResumeHook finds the checkpoint
        for hook in cfg.custom_hooks:
            if hook['type'] == 'ResumeHook':
                hook['load_from'] = cfg.get('load_from')
        cfg.update(resume=True, load_from=None)
    elif args.resume:
        cfg.update(resume=True, load_from=args.resume)
    runner = Runner.from_cfg(cfg)
    runner.register_hook(StartsHook())
    warn_of_batch_size(runner)
    runner.train()


def set_precision(cfg: Config, amp: bool) -> None:
    """Replace the type of the optimizer wrapper by one for mixed precision or for fp32."""
    if amp and not cuda.is_available():
        raise UserError(
            '--amp: no GPU is visible, and a CPU is many times slower in fp16 than in fp32. To try fp16 there '
            'nevertheless, set optim_wrapper.type=FiniteAmpOptimWrapper by --cfg-options'
        )
    cfg.optim_wrapper.type = 'FiniteAmpOptimWrapper' if amp else 'FiniteOptimWrapper'
    if not amp:
        for key in ('loss_scale', 'dtype'):
            cfg.optim_wrapper.pop(key, None)


if __name__ == '__main__':
    run(main)
