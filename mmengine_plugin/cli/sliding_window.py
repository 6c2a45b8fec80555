"""The sliding window of mmseg's segmentors, whose settings mmseg reads without a check."""

from __future__ import annotations

from mmengine.config import Config
from mmengine.logging import print_log

from backbones.errors import UserError, did_you_mean

MODES = ('whole', 'slide', 'slide_flip')


def complete_sliding_window(cfg: Config) -> None:
    """Complete ``model.test_cfg`` of a segmentor in place, and log what was added.

    A missing ``mode`` is ``'whole'``, as mmseg documents. With ``mode='slide'``, one number stands for both directions.
    A missing ``crop_size`` is the training crop. A missing ``stride`` is two thirds of the crop, rounded down, as in
    mmseg's configs: 341 of 512.

    Args:
        cfg: Config of a run.

    Raises:
        UserError: If the mode is unknown, if ``crop_size`` is missing and there is no training crop, or if a value is
            not one or two positive numbers, or the stride is larger than the crop.
    """
    if cfg.get('default_scope') != 'mmseg' or 'decode_head' not in cfg.model:
        return
    if cfg.model.get('test_cfg') is None:
        cfg.model.test_cfg = {}
    test_cfg = cfg.model.test_cfg
    mode = test_cfg.setdefault('mode', 'whole')
    if mode not in MODES:
        raise UserError(f'model.test_cfg.mode is {mode!r}{did_you_mean(str(mode), MODES)}; it is one of {MODES}')
    if mode == 'whole':
        return
    added = []
    if test_cfg.get('crop_size') is None:
        preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
        test_cfg.crop_size = preprocessor.get('size')
        if test_cfg.crop_size is None:
            raise UserError(
                f'model.test_cfg.mode is {mode!r} without a crop_size, and model.data_preprocessor.size gives no '
                'training crop: set model.test_cfg.crop_size=(512,512), or the crop of your training'
            )
        added.append('crop_size')
    crop = test_cfg.crop_size = _pair('crop_size', test_cfg.crop_size)
    if test_cfg.get('stride') is None:
        test_cfg.stride = tuple(side * 2 // 3 for side in crop)
        added.append('stride')
    stride = test_cfg.stride = _pair('stride', test_cfg.stride)
    if stride[0] > crop[0] or stride[1] > crop[1]:
        raise UserError(
            f'model.test_cfg.stride is {stride} and crop_size is {crop}: windows would leave out pixels between them. '
            f'Set a stride of at most the crop, such as model.test_cfg.stride=({crop[0] * 2 // 3},{crop[1] * 2 // 3})'
        )
    if added:
        print_log(
            f'model.test_cfg.mode is {mode!r} without {" and ".join(added)}: '
            f'the window is {crop[0]}x{crop[1]} pixels, and its stride {stride[0]}x{stride[1]}',
            'current',
        )


def _pair(key: str, value: object) -> tuple[int, int]:
    """Height and width of a setting that may be one number for both."""
    pair = (value, value) if isinstance(value, int) else value
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise UserError(f'model.test_cfg.{key} is {value!r}: set it to height and width in pixels, such as (512,512)')
    return tuple(pair)
