"""What a training step of Mask R-CNN and of UperNet keeps for its backward pass, by the settings that change it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from mmengine.config import Config
from torch import nn

from backbones.drop_path import DropPath
from mmengine_plugin import config
from mmengine_plugin.memory import REST, build_for_training, kept_by_part, losses, training_batch, training_shape

MODELS = ('mask_rcnn_mambaout_tiny', 'upernet_mambaout_tiny', 'mask_rcnn_mambaout_base')
FUSED = "gated_cnn='fused', the default on a CPU"
BFLOAT16 = "eager, bfloat16 by the CPU's autocast"
SETTINGS = {  # of the backbone
    FUSED: dict(gated_cnn='fused'),
    "gated_cnn='eager', the default on a GPU": dict(gated_cnn='eager'),
    'fused, with_cp': dict(gated_cnn='fused', with_cp=True),
    'fused, frozen_stages=2': dict(gated_cnn='fused', frozen_stages=2),
    BFLOAT16: dict(gated_cnn='eager'),
}
DROP_PATH = "fused, the recipe's drop path, on average"


def measure_kept() -> Iterator[dict]:
    """Count what a training step keeps with one image of the recipe's size, without drop path.

    Yields:
        A row of the report for each model and setting: ``backbone_gb``, in 1e9 bytes. The first one of a model also has
        ``rest_gb``, which the other settings do not change, and ``params``, the number of the model's parameters. For
        the recipe's drop path, ``backbone_gb`` is the expected value: what a block keeps, times the probability that
        its branch is computed.
    """
    for name in MODELS:
        for setting, backbone in SETTINGS.items():
            if setting == BFLOAT16 and not name.startswith('upernet'):
                continue  # a CPU takes minutes for it at 800x1280
            cfg = Config.fromfile(config(name))
            cfg.model.backbone.update(backbone)
            shape, model = training_shape(cfg), build_for_training(cfg)
            parts = [*drop_path_rates(model), 'backbone']
            batch = training_batch(cfg, *shape)
            row = dict(suite='kept', what=name, shape='1x{}x{}'.format(*shape), setting=setting)
            if setting == FUSED:
                kept = kept_by_part(partial(losses, model, batch), model, parts)
                row |= dict(rest_gb=kept.pop(REST) / 1e9, params=sum(p.numel() for p in model.parameters()))
            else:
                with torch.autocast('cpu', torch.bfloat16, enabled=setting == BFLOAT16):
                    kept = kept_by_part(partial(model.backbone, batch['inputs']), model, parts)
            yield row | dict(backbone_gb=sum(kept.values()) / 1e9)
            if setting == FUSED:
                rates = drop_path_rates(build_for_training(cfg, drop_path=True))
                expected = sum((1 - rates.get(part, 0)) * size for part, size in kept.items())
                yield row | dict(setting=DROP_PATH, backbone_gb=expected / 1e9)


def drop_path_rates(model: nn.Module) -> dict[str, float]:
    """The drop path rate of each block of a model, by its name."""
    found = ((name, part) for name, part in model.named_modules() if isinstance(part, DropPath))
    return {name.rpartition('.')[0]: part.drop_prob for name, part in found}
