"""Whether the neck and the heads expect the channels that the backbone gives."""

from __future__ import annotations

from mmengine.config import Config
from torch import nn

from backbones.errors import UserError

from .run_part import RunPart
from .trial_run import feature_maps

# modules that take maps of one width, and the attribute that holds it
ONE_WIDTH = {
    'rpn_head': 'in_channels',
    'bbox_head': 'in_channels',
    'roi_head.bbox_roi_extractor': 'out_channels',
    'roi_head.mask_roi_extractor': 'out_channels',
    'roi_head.bbox_head': 'in_channels',
    'roi_head.mask_head': 'in_channels',
}


def check_map_channels(part: RunPart) -> None:
    """Run the backbone and the neck on an image of zeros, and compare the channels of their maps with the settings.

    A backbone or a neck that cannot be run in this way is not checked. The random state and the modes of the modules
    do not change.

    Args:
        part: The training.

    Raises:
        UserError: If the neck or a head expects other channels; the message has the right value.
    """
    model = part.model
    backbone, neck = getattr(model, 'backbone', None), getattr(model, 'neck', None)
    if backbone is None:
        return
    convolution = next((m for m in backbone.modules() if isinstance(m, nn.Conv2d)), None)
    if convolution is None:
        return
    image = convolution.weight.new_zeros(1, convolution.in_channels, 64, 64)
    source, maps = type(backbone).__name__, feature_maps(backbone, image)
    if maps and neck is not None:
        channels, maps = [x.shape[1] for x in maps], feature_maps(neck, maps)
        if not maps:
            _check_neck(part.cfg, source, channels)
        source = type(neck).__name__
    if maps:
        channels = [x.shape[1] for x in maps]
        for name in ('decode_head', 'auxiliary_head'):
            for key, head in _modules(model, name):
                _check_segmentation_head(key, head, source, channels)
        _check_detection_heads(model, source, channels)


def _check_neck(cfg: Config, source: str, channels: list[int]) -> None:
    """Say why a neck failed, if that is because of its channels."""
    key, neck = 'model.neck', cfg.get('model', {}).get('neck')
    if isinstance(neck, list):  # several necks in a row
        key, neck = f'{key}.0', neck[0]
    expected = (neck or {}).get('in_channels')
    if isinstance(expected, list | tuple) and list(expected) != channels:
        raise UserError(
            f'{key}.in_channels is {list(expected)}, but the maps of {source} have {channels} channels: set '
            f'{key}.in_channels={_typed(channels)}'
        )


def _check_segmentation_head(key: str, head: nn.Module, source: str, channels: list[int]) -> None:
    """Compare the channels of the maps that a head of mmseg selects with its ``in_channels``."""
    expected, index = getattr(head, 'in_channels', None), getattr(head, 'in_index', None)
    if expected is None or index is None:
        return
    several = isinstance(index, list | tuple)
    indices = list(index) if several else [index]
    if any(not -len(channels) <= i < len(channels) for i in indices):
        raise UserError(
            f'{key}.in_index is {index}, but {source} gives {len(channels)} maps: set {key}.in_index to numbers below '
            f'{len(channels)}, or more out_indices in model.backbone'
        )
    selected = [channels[i] for i in indices]
    expected = list(expected) if isinstance(expected, list | tuple) else [expected]
    if getattr(head, 'input_transform', None) == 'resize_concat':  # mmseg keeps the sum
        fits, shown = sum(expected) == sum(selected), f'{sum(expected)} in sum'
    else:
        fits, shown = expected == selected, expected if several else expected[0]
    if not fits:
        maps = (
            f'maps {indices} of {source} have {selected}' if several else f'map {index} of {source} has {selected[0]}'
        )
        raise UserError(
            f'{key}.in_channels is {shown}, but {maps} channels: set '
            f'{key}.in_channels={_typed(selected) if several else selected[0]}'
        )


def _check_detection_heads(model: nn.Module, source: str, channels: list[int]) -> None:
    """Compare the channels of the maps with the ``in_channels`` of a detector's heads."""
    for name, attribute in ONE_WIDTH.items():
        if name.startswith('roi_head.') and not _regions_have_channels_of_maps(model):
            continue
        for key, module in _modules(model, name):
            expected = getattr(module, attribute, None)
            if not isinstance(expected, int) or set(channels) == {expected}:
                continue
            key = f'{key}.{attribute}'
            if len(set(channels)) > 1:
                raise UserError(
                    f'{key} is {expected}, but the maps of {source} have {channels} channels: add a model.neck whose '
                    f'out_channels is {expected}'
                )
            raise UserError(
                f'{key} is {expected}, but the maps of {source} have {channels[0]} channels: set {key}={channels[0]}'
            )


def _regions_have_channels_of_maps(model: nn.Module) -> bool:
    """Whether the second stage of a detector takes as many channels as the maps have."""
    if not hasattr(model, 'roi_head') or getattr(model.roi_head, 'with_shared_head', False):
        return False
    return all(getattr(m, 'aggregation', None) != 'concat' for m in model.roi_head.modules())


def _modules(model: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    """The modules of this name with their keys in the config: none, one, or several in a ModuleList."""
    module = model
    for part in name.split('.'):
        module = getattr(module, part, None)
    key = f'model.{name}'
    if isinstance(module, nn.ModuleList):
        return [(f'{key}.{i}', part) for i, part in enumerate(module)]
    return [] if module is None else [(key, module)]


def _typed(channels: list[int]) -> str:
    """A list as it is typed after ``--cfg-options``, which takes no blanks."""
    return str(channels).replace(' ', '')
