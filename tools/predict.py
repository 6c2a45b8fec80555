#!/usr/bin/env python
"""Predict your own images with a detector, segmentor or classifier. Results are pictures, JSON and label maps.

    python tools/predict.py configs/mask_rcnn_mambaout_tiny.py epoch_12.pth photo.jpg folder 'day*/*.png' --out-dir out

Images that cannot be read are listed at the end; the others are predicted. The same works from Python, with
mmengine_plugin.predict.Predictor.
"""

import doctor  # noqa: F401  (says what to type if an import below fails)

from backbones.safe_checkpoint import trust_checkpoints
from mmengine_plugin.cli.arguments import add_trust_option, config_parser
from mmengine_plugin.cli.error_messages import run
from mmengine_plugin.inference.images import find_images
from mmengine_plugin.inference.predictor import Predictor


def main() -> None:
    parser = config_parser(__doc__)
    add_trust_option(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('images', nargs='+', help='files, folders (with their subfolders) and quoted patterns')
    parser.add_argument('--out-dir', required=True, help='folder for pictures/, predictions.json, and labels/')
    parser.add_argument(
        '--batch-size', type=int, default=1, help='images in a forward pass, if they have the same size (default: 1)'
    )
    parser.add_argument(
        '--score-thr',
        type=float,
        default=0.3,
        help='leave out detections with a lower score (default: 0.3); a classifier lists its five best classes anyway',
    )
    parser.add_argument(
        '--tile',
        type=int,
        help='predict images in overlapping tiles of N x N of their pixels, 0: whole (default: 1024 for images of more '
        'than 2**26 pixels); a classifier takes images whole',
        metavar='N',
    )
    parser.add_argument('--device', help='for example cpu or cuda:1 (default: a GPU if there is one)')
    args = parser.parse_args()
    images = find_images(args.images, args.out_dir)  # before the model is loaded, which takes longer
    if args.trust_checkpoint:
        trust_checkpoints()
    predictor = Predictor(args.config, args.checkpoint, args.device, args.cfg_options)
    predictor(images, args.out_dir, args.batch_size, args.score_thr, args.tile)
    print(f'{len(images)} images: {args.out_dir}/predictions.json, pictures in {args.out_dir}/pictures')


if __name__ == '__main__':
    run(main)
