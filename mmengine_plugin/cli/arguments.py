"""Command-line arguments that several programs share, named as OpenMMLab's tools name them."""

from __future__ import annotations

import argparse
import math

from mmengine.config import DictAction

from backbones.errors import UserError

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


def share(text: str) -> float:
    """Parse a number above 0 and up to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a share above 0 and up to 1')
    return value


def batch_shape(text: str, option: str, upernet: bool) -> tuple[int, int, int]:
    """Parse a batch that is written as ``'<images>x<height>x<width>'``.

    Args:
        text: For example ``'2x800x1280'``.
        option: Name of the option, for messages.
        upernet: Whether UperNet is trained on it.

    Raises:
        UserError: If the batch is not written so, or has one image and ``upernet`` is set.
    """
    parts = text.split('x')
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise UserError(f'{option} {text}: write three numbers, such as 2x800x1280')
    images, height, width = map(int, parts)
    if upernet and images == 1:  # a batch norm behind pooling to one cell needs several values
        raise UserError(f'{option} {text}: UperNet trains on 2 images or more')
    return images, height, width


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
