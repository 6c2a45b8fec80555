#!/usr/bin/env python
"""Predict one's own images with a detector or segmentor: pictures, and the results as JSON and label maps.

    python tools/predict.py configs/mask_rcnn_mambaout_tiny.py epoch_12.pth photo.jpg folder 'day*/*.png' --out-dir out

An image that cannot be read is named at the end, and the others are done. In Python, mmengine_plugin.predict.Predictor
does the same.
"""

import doctor  # noqa: F401  (says what to type if an import below fails)

from backbones import weights
from mmengine_plugin import launch
from mmengine_plugin.predict import Predictor, find_images


def main() -> None:
    parser = launch.config_parser(__doc__)
    launch.trust_option(parser)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('images', nargs='+', help='files, folders with all below them, and quoted patterns')
    parser.add_argument('--out-dir', required=True, help='folder for pictures/, predictions.json, and labels/')
    parser.add_argument('--batch-size', type=int, default=1, help='images of one size in a forward pass (default: 1)')
    parser.add_argument(
        '--score-thr', type=float, default=0.3, help='leave out detections with a lower score (default: 0.3)'
    )
    parser.add_argument('--device', help='for example cpu or cuda:1 (default: a GPU where there is one)')
    args = parser.parse_args()
    images = find_images(args.images, args.out_dir)  # before the model takes its time to load
    if args.trust_checkpoint:
        weights.trust_checkpoints()
    predictor = Predictor(args.config, args.checkpoint, args.device, args.cfg_options)
    predictor(images, args.out_dir, args.batch_size, args.score_thr)
    print(f'{len(images)} images: {args.out_dir}/predictions.json, pictures in {args.out_dir}/pictures')


if __name__ == '__main__':
    launch.run(main)
