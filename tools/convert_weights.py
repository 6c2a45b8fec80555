#!/usr/bin/env python
"""Convert MambaOut weights to .safetensors, under the names of timm and this project or those of the authors.

    python tools/convert_weights.py mambaout_tiny.pth tiny.safetensors                  # the authors' file
    python tools/convert_weights.py work_dirs/mine/epoch_12.pth backbone.safetensors    # the backbone of a detector
    python tools/convert_weights.py tiny.safetensors again.safetensors --to authors     # and back

Names change, tensors do not. SRC is a file, a URL or hf-hub:<repository>, like a checkpoint in init_cfg.
"""

import argparse
import doctor  # noqa: F401  (says what to type if an import below fails)
from pathlib import Path

from safetensors.torch import save_file

from backbones import UserError
from backbones.mambaout import authors_names, our_names
from backbones.weights import read_backbone
from mmengine_plugin.atomic_files import atomic_file
from mmengine_plugin.cli.error_messages import run

PARTS = ('stem.', 'stages.', 'head.', 'out_norms.')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('src', metavar='SRC', help='weights under the names of timm, of this project or of the authors')
    parser.add_argument('dst', metavar='DST', type=Path, help='.safetensors file to write')
    parser.add_argument('--to', choices=['timm', 'authors'], default='timm', help='names to write (default: timm)')
    args = parser.parse_args()
    if args.dst.suffix != '.safetensors':
        raise UserError(f'{args.dst} must end with .safetensors')
    state = our_names(read_backbone(args.src))
    for name in state:
        if not name.startswith(PARTS):
            raise UserError(f'{args.src} holds {name}, which is not a parameter of MambaOut')
    if args.to == 'authors':
        state = authors_names(state)
    with atomic_file(args.dst) as path:
        save_file({key: value.contiguous() for key, value in state.items()}, path, metadata=dict(format='pt'))
    millions = sum(value.numel() for value in state.values()) / 1e6
    print(f'{len(state)} tensors, {millions:.2f} M values, under the names of {args.to}: {args.dst}')


if __name__ == '__main__':
    run(main)
