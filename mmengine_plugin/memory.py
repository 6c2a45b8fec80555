"""What a training step keeps for its backward pass: bytes, in total and per part of the model."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from .compat.private_names import is_batch_norm
from .data.random_batch import random_batch

SHAPES = dict(mmdet=(800, 1280), mmseg=(512, 512))  # of the recipes' training images, by default_scope
CLASSES = ('num_classes', 'num_things_classes')  # of heads, in a model's config
REST = 'rest'  # what no part keeps: mostly the losses


def count_kept(cfg: Config, shape: Sequence[int] | None = None) -> dict:
    """Count the bytes that a training step with one image keeps for its backward pass.

    The forward pass and the losses are computed on this machine's CPU, in single precision, with random weights and a
    random image. The image of a detector has 10 objects with boxes and masks. Nothing is dropped by drop path, so the
    bytes are the most that a step keeps, and batch norms use their running statistics, because one image may give them
    a single value. The seeds are set, so the result is the same each time.

    Args:
        cfg: A config of mmdet, of mmseg, or of an ``ImageClassifier``.
        shape: Height and width of the image in pixels; ``None`` for those of :func:`training_shape`.

    Returns:
        ``training_shape``; ``kept_bytes``, the total without parameters and buffers; ``kept_by_part``, the bytes of
        each part that keeps any. What two parts keep is counted for the first one.
    """
    shape = list(shape or training_shape(cfg))
    model = build_for_training(cfg)
    batch = training_batch(cfg, *shape)
    kept = kept_by_part(partial(losses, model, batch), model, part_names(model))
    return dict(training_shape=shape, kept_bytes=sum(kept.values()), kept_by_part=kept)


def training_shape(cfg: Config) -> tuple[int, int]:
    """Height and width of a training image: 800x1280 for mmdet; for others, the config's crop or input size."""
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    transform = cfg.get('train_dataloader', {}).get('dataset', {}).get('transform') or {}
    size = preprocessor.get('size') if cfg.default_scope == 'mmseg' else transform.get('input_size', 224)
    if cfg.default_scope == 'mmdet' or not size:
        return SHAPES[cfg.default_scope]
    return (size, size) if isinstance(size, int) else tuple(size[-2:])


def build_for_training(cfg: Config, drop_path: bool = False) -> nn.Module:
    """Build the model of a config in training mode, with random weights and batch norms that use running statistics.

    Sets the seeds of PyTorch, NumPy and Python.

    Args:
        cfg: The config.
        drop_path: Whether the backbone drops paths at the config's rate. Otherwise it drops none.
    """
    init_default_scope(cfg.default_scope)
    settings = _without_weights(copy.deepcopy(cfg.model))
    if not drop_path and 'drop_path_rate' in (settings.get('backbone') or {}):
        settings.backbone.drop_path_rate = 0.0
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(0)
    model = MODELS.build(settings)
    with _quiet():
        model.init_weights()  # some modules of upstream leave parameters without values until then
    model.train()
    for module in model.modules():
        if is_batch_norm(module):
            module.eval()
    return model


def training_batch(cfg: Config, height: int, width: int) -> dict:
    """One normalised image with its labels, as arguments of the model of a config."""
    inputs = torch.rand(1, 3, height, width)
    if cfg.default_scope in SHAPES:
        classes = min((number for number in _values(cfg.model, CLASSES) if isinstance(number, int)), default=1)
        task = 'detection' if cfg.default_scope == 'mmdet' else 'segmentation'
        samples = random_batch(task, 1, height, width, classes)['data_samples']
        if task == 'detection' and not any(_values(cfg.get('train_dataloader'), ('with_mask', 'with_seg'))):
            del samples[0].gt_instances.masks  # some assigners use masks if there are any
        return dict(inputs=inputs, data_samples=samples)
    labels = torch.tensor([0])
    if cfg.model.get('loss', {}).get('type', '').startswith('Soft'):
        labels = nn.functional.one_hot(labels, cfg.model.get('num_classes', 1000)).float()
    return dict(inputs=inputs, labels=labels)


def losses(model: nn.Module, batch: Mapping) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch, and its parts."""
    return model.parse_losses(model(**batch, mode='loss'))


def part_names(model: nn.Module) -> list[str]:
    """Names of the parts of a model: its children, and the heads of a two-stage detector one by one."""
    names = [name for name, _ in model.named_children() if name != 'roi_head']
    heads = getattr(model, 'roi_head', nn.Module())
    return names + [f'roi_head.{name}' for name, _ in heads.named_children()]


def bytes_kept_for_backward(forward: Callable[[], object], model: nn.Module) -> int:
    """Count the bytes that a forward pass keeps for the backward pass, without the model's parameters and buffers."""
    return sum(kept_by_part(forward, model).values())


def kept_by_part(forward: Callable[[], object], model: nn.Module, parts: Sequence[str] = ()) -> dict[str, int]:
    """Count the bytes that a forward pass keeps for the backward pass, by the part of the model that keeps them.

    Args:
        forward: Calls the model, or parts of it.
        model: The model; what its parameters and buffers hold is not counted.
        parts: Names of modules of the model. What a module keeps is counted for the first part that holds it.

    Returns:
        Bytes by the names of parts that keep any, and by ``'rest'`` for what is computed outside all of them. A storage
        counts once, for the first part that keeps it.
    """
    storages: dict[int, tuple[torch.UntypedStorage, str]] = {}
    running: list[str] = []  # the parts of the modules that are being called, the outermost first

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages.setdefault(storage.data_ptr(), (storage, running[-1] if running else REST))
        return tensor.detach()  # an operator that keeps its own output would otherwise keep itself forever

    with _noted_calls(model, parts, running), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = forward()
    for tensor in chain(model.parameters(), model.buffers()):
        storages.pop(tensor.untyped_storage().data_ptr(), None)
    del output  # it holds the graph, and so all that is counted, until here
    kept = dict.fromkeys([*parts, REST], 0)
    for storage, part in storages.values():
        kept[part] += storage.nbytes()
    return {part: size for part, size in kept.items() if size}


@contextmanager
def _noted_calls(model: nn.Module, parts: Sequence[str], running: list[str]) -> Iterator[None]:
    """Note in ``running``, for each module that is being called, the part that it belongs to.

    Upstream's models call the modules inside their heads and the heads' losses, but not the heads themselves.
    """

    def end(module: nn.Module, inputs: object, outputs: object) -> None:
        running.pop()

    with ExitStack() as stack:
        for name, module in model.named_modules():
            part = next((part for part in parts if f'{name}.'.startswith(f'{part}.')), REST)
            start = module.register_forward_pre_hook(lambda *_, part=part: running.append(part))
            for hook in (start, module.register_forward_hook(end)):
                stack.callback(hook.remove)
        yield


def _values(settings: object, keys: Sequence[str]) -> Iterator[object]:
    """The values of some keys at any depth of a config."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            if key in keys:
                yield value
            yield from _values(value, keys)
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from _values(value, keys)


def _without_weights(settings: object) -> object:
    """Take all names of pretrained weights out of the config of a model, in place."""
    if isinstance(settings, Mapping):
        for key, value in list(settings.items()):
            is_weights = isinstance(value, Mapping) and value.get('type') == 'Pretrained'
            settings[key] = None if is_weights or key == 'pretrained' else _without_weights(value)
    elif isinstance(settings, list | tuple):
        return type(settings)(_without_weights(value) for value in settings)
    return settings


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep mmengine from logging each parameter that it initialises."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    try:
        yield
    finally:
        logger.setLevel(level)
