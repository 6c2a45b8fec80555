#!/usr/bin/env python
"""Convert a data set for detection to COCO's format, or coloured masks for segmentation to label maps.

    python tools/convert_dataset.py auto data/pets_yolo data/pets
    python tools/convert_dataset.py masks data/roads data/roads_indices

FORMAT is coco, cvat, labelme, supervisely, voc, yolo or masks; auto finds it by what is in SRC. Images stay where they
are, and OUT refers to them. The program ends by printing a config to train with.
"""

import argparse
import doctor  # noqa: F401  (says what to type if an import below fails)
import shlex
from collections import Counter
from pathlib import Path

from backbones.errors import UserError
from mmengine_plugin.cli.error_messages import run

FORMATS = ('auto', 'coco', 'cvat', 'labelme', 'masks', 'supervisely', 'voc', 'yolo')


def fraction(text: str) -> float:
    """Parse a number between 0 and 1."""
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f'{text} is not between 0 and 1')
    return value


def color(text: str) -> tuple[str, tuple[int, int, int]]:
    """Parse the name and the colour of a class, such as ``cat:220,40,40``."""
    name, _, numbers = text.rpartition(':')
    parts = numbers.split(',')
    if not name or len(parts) != 3 or not all(part.isdecimal() and int(part) < 256 for part in parts):
        raise argparse.ArgumentTypeError(f'{text!r} is not of the kind NAME:RED,GREEN,BLUE')
    red, green, blue = map(int, parts)
    return name, (red, green, blue)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('format', metavar='FORMAT', choices=FORMATS, help=', '.join(FORMATS))
    parser.add_argument('src', metavar='SRC', type=Path, help='folder to convert; it is not changed')
    parser.add_argument('out', metavar='OUT', type=Path, help='folder to write; it must not exist')
    parser.add_argument(
        '--val-fraction', type=fraction, default=0.2, help='share for validation, if SRC has no such split (0.2)'
    )
    parser.add_argument('--seed', type=int, default=0, help='choose other images for validation (default: 0)')
    parser.add_argument(
        '--mixed',
        choices=['boxes', 'rectangles'],
        help='if only some objects have masks: use boxes alone, or take a box without a mask as a rectangular mask',
    )
    parser.add_argument(
        '--labelmap', type=Path, help='masks: file with lines NAME:RED,GREEN,BLUE (default: labelmap.txt of SRC)'
    )
    parser.add_argument(
        '--colors', nargs='+', type=color, default=[], metavar='NAME:R,G,B', help='masks: the same, without a file'
    )
    args = parser.parse_args()
    if not args.src.is_dir():
        raise UserError(f'{args.src} is not a folder (seen from {Path.cwd()}): name one, and unpack archives first')
    if args.format == 'auto' and is_mask_export(args.src):
        print(f'{args.src} has the format masks')
        args.format = 'masks'
    if args.format == 'masks':
        convert_colors(args)
    else:
        convert_objects(args)


def is_mask_export(src: Path) -> bool:
    """Whether a folder has coloured masks in the layout of Pascal VOC, and no boxes."""
    return (src / 'SegmentationClass').is_dir() and not (src / 'Annotations').is_dir()


def convert_objects(args: argparse.Namespace) -> None:
    """Convert labelled objects to COCO's format."""
    from mmdet_plugin import formats
    from mmdet_plugin.formats.output import write

    folder = formats.Folder(args.src)
    name = args.format
    if name == 'auto':
        name = formats.detect(folder)
        print(f'{args.src} has the format {name}')
    source = formats.READERS[name](folder)
    if not source.images:
        raise UserError(f'{args.src} has no labels of the format {name}: name its folder, or use auto')
    dataset, text, config = write(source, args.src, args.out, args.mixed, args.val_fraction, args.seed)
    for note in dataset.notes:
        print(f'note: {note}')
    counts = Counter(part.category for part in dataset.objects)
    print(f'{len(dataset.images)} images, {counts.total()} objects:', end=' ')
    print(', '.join(f'{counts[category]} {category}' for category in dataset.categories))
    print_config(config, text)


def convert_colors(args: argparse.Namespace) -> None:
    """Convert coloured masks to label maps."""
    from mmseg_plugin.data.color_masks import read_labelmap
    from mmseg_plugin.data.mask_export import convert_export

    colors = read_labelmap(args.labelmap) if args.labelmap else dict(args.colors)
    text, notes = convert_export(args.src, args.out, colors, args.val_fraction, args.seed)
    print(*notes, sep='\n')
    print_config(args.out / f'{args.out.resolve().name}.py', text)


def print_config(path: Path, text: str) -> None:
    """Print the config that was written, and the command that comes next."""
    print(f'{path}:\n\n{text}')
    print(f'next: python tools/check_dataset.py {shlex.quote(str(path))}')


if __name__ == '__main__':
    run(main)
