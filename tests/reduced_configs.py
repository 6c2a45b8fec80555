"""Configs with small backbones and narrow heads, for tests that train every family of models on a CPU."""

from __future__ import annotations

from collections.abc import Mapping

from mmengine.config import Config

from tests.conftest import ROOT

DIMS = (32, 64, 128, 192)  # of the backbone
# Sizes of a part of a model, by the setting's name: {size in the config: reduced size}
WIDTHS = {
    **dict.fromkeys(('in_channels', 'out_channels', 'feat_channels', 'conv_out_channels', 'embed_dims'), {256: 64}),
    'channels': {512: 64, 256: 64, 128: 32},
    'num_feats': {128: 32},  # of sine and cosine each: half of the width
}
NUMBERS = {
    'fc_out_channels': {1024: 128},
    'feedforward_channels': {1024: 128, 2048: 128},
    'num_layers': {6: 2, 9: 3},  # of encoders and decoders
    'num_queries': {900: 60, 100: 30},
    'num_dn_queries': {100: 20},
    'num': {512: 64},  # proposals that a box head is trained with
    **dict.fromkeys(('nms_pre', 'max_per_img'), {2000: 200, 1000: 200}),  # proposals
    'sampling_ratio': {0: 2},  # RoIAlign is faster with a fixed number of samples
    'num_points': {12544: 1024},  # of a mask at which its loss is computed
}


def reduced(name: str) -> Config:
    """A config of ``configs/`` with a small backbone, narrow heads and few queries, and its other settings.

    The backbone has random weights and no drop path. DINO keeps its width: it encodes boxes as 256 values, whatever the
    config says.
    """
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    shrink(cfg.model, NUMBERS if cfg.model.type == 'DINO' else NUMBERS | WIDTHS)
    backbone = cfg.model.backbone
    backbone.update(arch=dict(depths=(1, 1, 3, 1), dims=DIMS), drop_path_rate=0.0, init_cfg=None)
    widths = [DIMS[stage] for stage in backbone.get('out_indices', range(4))]
    part = next(part for part in ('neck', 'panoptic_head', 'decode_head') if part in cfg.model)
    cfg.model[part].in_channels = widths
    if auxiliary := cfg.model.get('auxiliary_head'):
        auxiliary.in_channels = DIMS[2]
    return cfg


def shrink(part: object, sizes: Mapping[str, Mapping[int, int]]) -> None:
    """Reduce the sizes in a part of a model's config, and in its parts."""
    for key, value in part.items() if isinstance(part, Mapping) else ():
        smaller = sizes.get(key, {})
        if isinstance(value, int):
            part[key] = smaller.get(value, value)
        elif isinstance(value, list) and all(isinstance(size, int) for size in value):
            part[key] = [smaller.get(size, size) for size in value]
        for child in value if isinstance(value, list) else [value]:
            shrink(child, sizes)
