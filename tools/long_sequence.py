#!/usr/bin/env python
"""Tell whether an image is a long sequence, by section 3.2 of the MambaOut paper: a table and a picture.

    python tools/long_sequence.py                                               # the paper's cases
    python tools/long_sequence.py --shape 1024 1024 --patch 8 --width 192 384   # any other
    python tools/long_sequence.py --arch tiny                                   # each stage of a pyramid

On L tokens, a Transformer block of width D needs 24 D^2 L + 4 D L^2 FLOPs (Eq. 6). A multiply-accumulate counts as 2,
and the MLP is 4 times as wide. The quadratic term is r = L / 6D times the linear one (Eq. 7): a sequence is long if
L > 6D.
"""

from __future__ import annotations

import argparse
import doctor  # noqa: F401  (says what to type if an import below fails)
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from backbones import UserError
from backbones.mambaout import ARCHS
from mmengine_plugin.atomic_files import atomic_file
from mmengine_plugin.cli.arguments import positive
from mmengine_plugin.cli.error_messages import run

plt.switch_backend('agg')

IMAGES = {  # the paper's three cases, and the crop of Swin's config, to which the paper's author refers
    'ImageNet': (224, 224),
    'COCO': (800, 1280),
    'ADE20K': (512, 2048),
    'ADE20K, training crop': (512, 512),
}
WIDTHS = (384, 768)  # of ViT-S and ViT-B
NOTE = """
The paper counts ImageNet as short, and COCO and ADE20K, "approximately 4K" tokens, as long. By L > 6D that holds at
width 384 (ViT-S). At width 768 (ViT-B), COCO and ADE20K come near the threshold and stay below it. The crops that
ADE20K is trained on are short at both."""


def tokens_of(height: int, width: int, patch: int) -> int:
    """Number of patches of an image; those at its right and lower edges are padded."""
    return -(-height // patch) * -(-width // patch)


def flops(tokens: float, dim: int) -> tuple[float, float]:
    """Eq. 6: FLOPs of a Transformer block, those linear in the number of tokens and those quadratic in it."""
    return 24 * dim**2 * tokens, 4 * dim * tokens**2


def draw(rows: list[tuple[str, int, int, int]], path: Path) -> None:
    """Plot the share of the quadratic term over the number of tokens: a curve for each width, a mark for each row."""
    figure, axis = plt.subplots(figsize=(9, 4), layout='constrained')
    dims = dict.fromkeys(dim for *_, dim in rows)
    colors = dict(zip(dims, plt.cm.viridis(np.linspace(0, 0.8, len(dims))), strict=True))
    markers = dict(zip(dict.fromkeys(image for image, *_ in rows), 'osD^', strict=False))
    ends = [n for *_, tokens, dim in rows for n in (tokens, 6 * dim)]
    curve = np.geomspace(min(ends) / 4, max(ends) * 4, 200)

    def share(tokens: float, dim: int) -> float:
        linear, quadratic = flops(tokens, dim)
        return quadratic / (linear + quadratic)

    axis.axhspan(0.5, 1, color='black', alpha=0.06, label='the sequence is long')
    for dim, color in colors.items():
        axis.plot(curve, share(curve, dim), color=color, label=f'width {dim}: above {6 * dim} tokens')
    for image, marker in markers.items():
        axis.plot([], [], marker, color='black', fillstyle='none', label=image)
    for image, _, tokens, dim in rows:
        axis.plot(tokens, share(tokens, dim), markers[image], color=colors[dim], fillstyle='none', ms=9, mew=1.5)
    axis.set(title='Transformer block: where the quadratic term takes over', ylabel='its share of all FLOPs')
    axis.set(xlabel='tokens L', xscale='log', xlim=(curve[0], curve[-1]), ylim=(0, 1))
    figure.legend(loc='outside right upper')
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--shape', type=positive, nargs=2, metavar=('H', 'W'), help="size of an image (default: the paper's images)"
    )
    parser.add_argument(
        '--patch', type=positive, metavar='P', help='side of a patch, or stride of a stage (default: 16)'
    )
    parser.add_argument(
        '--width', type=positive, nargs='+', metavar='D', help='widths of blocks (default: of ViT-S and ViT-B)'
    )
    parser.add_argument('--arch', choices=ARCHS, help='size of MambaOut; its stages give patches and widths')
    parser.add_argument(
        '--out', type=Path, default='work_dirs/long_sequence.png', help='the picture to write (default: %(default)s)'
    )
    args = parser.parse_args()
    if args.arch and (args.patch or args.width):
        raise UserError(f'--arch {args.arch} gives patches and widths: leave out --patch and --width')
    if args.out.suffix != '.png':
        raise UserError(f'--out {args.out} must end with .png')
    images = {'{}x{}'.format(*args.shape): args.shape} if args.shape else IMAGES
    layers = [(args.patch or 16, dim) for dim in args.width or WIDTHS]
    if args.arch:
        layers = [(4 * 2**i, dim) for i, dim in enumerate(ARCHS[args.arch].dims)]
    rows = [(name, patch, tokens_of(*shape, patch), dim) for name, shape in images.items() for patch, dim in layers]
    print(f'{"image":21}{"patch":>7}{"tokens L":>10}{"width D":>9}{"6D":>7}{"r = L/6D":>10}{"GFLOPs":>10}  long')
    for image, patch, tokens, dim in rows:
        long, gflops = 'yes' if tokens > 6 * dim else 'no', sum(flops(tokens, dim)) / 1e9
        print(f'{image:21}{patch:7}{tokens:10}{dim:9}{6 * dim:7}{tokens / (6 * dim):10.3f}{gflops:10.2f}  {long}')
    if not (args.shape or args.patch or args.width or args.arch):
        print(NOTE)
    draw(rows, args.out)
    print(f'\n{args.out}')


if __name__ == '__main__':
    run(main)
