"""Command-line arguments that several programs share, named as OpenMMLab's tools name them."""

from __future__ import annotations

import argparse

from mmengine.config import DictAction

from .launching import RANK_VARIABLES


class CfgOptions(DictAction):
    """mmengine's parser of ``KEY=VALUE ...``, but what it cannot read is answered without a traceback."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: list, *args) -> None:
        """Parse the pairs."""
        try:
            super().__call__(parser, namespace, values, *args)
        except (AssertionError, ValueError):
            parser.error(f'--cfg-options takes KEY=VALUE pairs without blanks around "=", and got: {" ".join(values)}')


def positive(text: str) -> int:
    """Parse a positive integer."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f'{text!r} is not a positive number')
    return int(text)


def config_parser(description: str) -> argparse.ArgumentParser:
    """The arguments of every program that reads a config."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        default={},
        metavar='KEY=VALUE',
        help='override settings, for example train_dataloader.batch_size=4 or model.backbone.init_cfg=None',
    )
    return parser


def run_parser(description: str) -> argparse.ArgumentParser:
    """The arguments that training and testing share."""
    parser = config_parser(description)
    parser.add_argument('--work-dir', help='folder for logs and results (default: work_dirs/<name of the config>)')
    parser.add_argument('--launcher', choices=['none', *RANK_VARIABLES], default='none')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    add_trust_option(parser)
    return parser


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust-checkpoint``."""
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='let checkpoint files run the code that they hold; use it only for files from a source that you trust',
    )
