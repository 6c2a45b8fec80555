"""Several models side by side: size, training step and inference, receptive field, and growth with the image."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from mmengine.utils import import_modules_from_strings
from torch import Tensor, nn
from tqdm import tqdm

from mmengine_plugin import macs
from mmengine_plugin.data.random_batch import random_batch
from mmengine_plugin.inference.weights import load_weights
from mmengine_plugin.memory import bytes_kept_for_backward

from . import backbone
from .conditions import device_conditions
from .measuring import CUDA, DEVICE, measure
from .memory import failure, fresh_process, limited_memory, peak_bytes
from .receptive_fields import describe, reach, reaches_all_borders, receptive_field, square_images
from .whole_models import infer, keep_all_boxes, train_step

TASKS = dict(mmdet='detection', mmseg='segmentation')  # by default_scope
FIELD_IMAGES = 2  # of a folder, over which a receptive field is averaged
NOISE_IMAGES = 1  # without a folder


@dataclass
class Settings:
    """What is measured, and how.

    Attributes:
        shape: Images, height and width of the batch for training steps and inference.
        rounds: How often each model runs.
        sizes: Heights and widths of the square images over which growth is measured.
        stride: Pixels between the cells of the map whose receptive field is measured.
        field_size: Height and width of the images for the receptive field, a multiple of the stride.
        images: Files for the receptive field; none for noise.
    """

    shape: tuple[int, int, int]
    rounds: int
    sizes: list[int]
    stride: int
    field_size: int
    images: list[str]


SETTINGS = dict(  # that matter to each part
    size=[], step=['shape', 'rounds'], receptive=['stride', 'field_size', 'images'], growth=['sizes', 'rounds']
)
Figures = Iterator[tuple[str, dict]]  # the name of a model, and what is known of it


def compare(
    configs: Mapping[str, Config],
    checkpoints: Mapping[str, str],
    parts: Iterable[str],
    settings: Settings,
    results: dict,
    write: Callable[[dict], None],
) -> None:
    """Measure models part by part.

    Args:
        configs: The configs by the names of the models. Times are compared with those of the first model.
        checkpoints: Trained weights, by the names of the models that have some.
        parts: Some of the keys of ``SETTINGS``.
        settings: How it is measured.
        results: ``parts``, the conditions of each part, and ``models``, the figures of each part by model. What it
            holds of other parts is kept.
        write: Is called with the results whenever a figure is new, so that an interrupted run loses little.
    """
    measures = dict(
        size=lambda: measure_size(configs),
        step=lambda: measure_step(configs, settings),
        receptive=lambda: measure_receptive_fields(configs, checkpoints, settings),
        growth=lambda: measure_growth(configs, settings),
    )
    for part in parts:
        results['parts'][part] = device_conditions() | {key: vars(settings)[key] for key in SETTINGS[part]}
        for name in configs:
            results['models'].setdefault(name, {})[part] = dict(errors={})
        with limited_memory(), _quiet():
            for name, figures in measures[part]():
                found = results['models'][name][part]
                errors = found['errors'] | figures.pop('errors', {})
                found |= figures | dict(errors=errors)
                write(results)


def measure_size(configs: Mapping[str, Config]) -> Figures:
    """Count parameters and MACs at the size of the paper's tables."""
    for name, cfg in configs.items():
        yield name, _attempt('size', macs.count, cfg, *macs.SHAPES[cfg.default_scope])


def measure_step(configs: Mapping[str, Config], settings: Settings) -> Figures:
    """Measure whole training steps and inference, and what the backbone keeps for the backward pass."""
    peaks = yield from _peaks_of_each(configs, 'build', memory_of_step, settings.shape)
    built = {}
    for name, cfg in configs.items():
        if peaks[name] and (found := (yield from _built(name, 'build', _build_with_optimizer, cfg))):
            built[name] = found
    images, height, width = settings.shape
    classes = min((_num_classes(model) for model, _ in built.values()), default=1)
    batch = _batch(configs, [model for model, _ in built.values()], settings.shape, classes)
    for what, function in dict(step=train_step, inference=infer).items():
        runs = {name: partial(function, *pair, batch) for name, pair in built.items() if what in peaks[name]}
        yield from _measured(runs, settings.rounds, what, f'{what} {images}x{height}x{width}', peaks)


def measure_receptive_fields(
    configs: Mapping[str, Config], checkpoints: Mapping[str, str], settings: Settings
) -> Figures:
    """Measure receptive fields with random weights, and with those of a checkpoint if there is one."""
    noise = np.random.default_rng(0).integers(
        0, 256, (NOISE_IMAGES, settings.field_size, settings.field_size, 3), dtype=np.uint8
    )
    pixels = list(square_images(settings.images, settings.field_size)) or noise
    for name, cfg in tqdm(configs.items(), desc='receptive field', leave=False):
        if model := (yield from _built(name, 'random', build, cfg)):
            images = [_prepared(model, image) for image in pixels]
            found = _attempt('random', _random_field, model.backbone, images, settings.stride)
            yield name, found
            if not found.get('whole_image', True):  # decays may have underflowed in single precision
                doubled = copy.deepcopy(model.backbone)
                yield name, _attempt('reach', _reach_in_double, doubled, images[0], settings.stride)
            if name in checkpoints:
                yield name, _attempt('trained', _trained_field, model, checkpoints[name], images, settings.stride)


def measure_growth(configs: Mapping[str, Config], settings: Settings) -> Figures:
    """Measure the inference of the backbones on square images; one that fails on a size is left out of larger ones."""
    sizes = sorted(settings.sizes)
    peaks = yield from _peaks_of_each(configs, 'growth', memory_of_growth, sizes)
    backbones = {}
    for name, cfg in configs.items():
        if peaks[name] and (model := (yield from _built(name, 'growth', build, cfg))):
            backbones[name] = model.backbone.eval()
    for size in map(str, sizes):
        x = torch.rand(1, 3, int(size), int(size), device=DEVICE)
        runs = {name: partial(backbone.infer, model, x) for name, model in backbones.items() if size in peaks[name]}
        for name, figures in _measured(runs, settings.rounds, size, f'inference {size}x{size}', peaks):
            if 'errors' in figures:
                del backbones[name]
            yield name, figures


def memory_of_step(cfg: Config, shape: tuple[int, int, int]) -> dict:
    """Measure the memory of a training step, of inference, and of what the backbone keeps for the backward pass.

    Args:
        cfg: A config.
        shape: Images, height and width of the batch.

    Returns:
        ``peaks``, the peaks in bytes (``None`` where they cannot be measured) by ``'step'`` and ``'inference'``;
        ``kept_gib``; and ``errors``, what failed and why, by ``'step'``, ``'inference'`` and ``'kept'``. Peaks are
        those of a second run, because the first training step makes the states of the optimizer.
    """
    with limited_memory():
        model, optimizer = _build_with_optimizer(cfg)
        batch = _batch(dict(model=cfg), [model], shape, _num_classes(model))
        runs = {
            what: partial(function, model, optimizer, batch)
            for what, function in dict(step=train_step, inference=infer).items()
        }
        found: dict = dict(peaks={}, errors={})
        for what, run in runs.items():
            peak = _attempt(what, lambda run=run: dict(peak=_peak_of_second_run(run)))
            found['errors'] |= peak.get('errors', {})
            if 'peak' in peak:
                found['peaks'][what] = peak['peak']
        images, height, width = shape
        x = torch.rand(images, 3, height, width, device=DEVICE)
        kept = _attempt('kept', _kept, model.backbone, x)
        return found | kept | dict(errors=found['errors'] | kept.get('errors', {}))


def memory_of_growth(cfg: Config, sizes: list[int]) -> dict:
    """Measure the memory of a backbone's inference on one square image of each size, up to the first that fails.

    Args:
        cfg: A config.
        sizes: Heights and widths of the images, ascending.

    Returns:
        ``peaks``, in bytes (``None`` where they cannot be measured), and ``errors``, if there are any, both by the size
        as a string.
    """
    with limited_memory():
        model, peaks = build(cfg).backbone, {}
        for size in map(str, sizes):
            found = _attempt(size, lambda size=size: dict(peak=_peak_of_inference(model, int(size))))
            if 'errors' in found:
                return dict(peaks=peaks, **found)
            peaks[size] = found['peak']
        return dict(peaks=peaks)


def build(cfg: Config) -> nn.Module:
    """Build a config's model with random weights, without drop path, and without a threshold of the scores.

    A backbone of this project computes the branches of the kept samples only. With drop path, time and memory of a
    step would therefore depend on the random state.
    """
    init_default_scope(cfg.default_scope)
    model_cfg = copy.deepcopy(cfg.model)
    keep_all_boxes(model_cfg)
    if 'drop_path_rate' in model_cfg.backbone:
        model_cfg.backbone.drop_path_rate = 0.0
    torch.manual_seed(0)
    return MODELS.build(model_cfg).to(DEVICE).eval()


def _build_with_optimizer(cfg: Config) -> tuple[nn.Module, OptimWrapper]:
    model, wrapper = build(cfg), copy.deepcopy(cfg.optim_wrapper)
    if CUDA and 'Amp' in str(wrapper.get('type')):
        wrapper.dtype = 'bfloat16'  # fp16 skips the optimizer's update while it looks for its loss scale
    return model, build_optim_wrapper(model, wrapper)


def _num_classes(model: nn.Module) -> int:
    """The least number of classes of a model's heads, but for those that tell objects from background alone."""
    found = [getattr(module, 'num_classes', None) for module in model.modules()]
    return min((number for number in found if isinstance(number, int) and number > 1), default=1)


def _attempt(what: str, function: Callable[..., dict], *arguments: object) -> dict:
    """The result of a function, or what failed and why."""
    try:
        return function(*arguments)
    except Exception as error:  # whatever it is, the other models are measured
        return dict(errors={what: failure(error)})


def _peaks_of_each(
    configs: Mapping[str, Config], what: str, function: Callable[..., dict], *arguments: object
) -> Iterator[tuple[str, dict]]:
    """Measure memory, on a CPU in a process of its own; yield what is known, and return the peaks by model."""
    peaks = {}
    with nullcontext(lambda function, *arguments: function(*arguments)) if CUDA else fresh_process() as call:
        for name, cfg in tqdm(configs.items(), desc='memory', leave=False):
            found = _attempt(what, call, _with_plugins, function, cfg, *arguments)
            peaks[name] = found.pop('peaks', {})
            yield name, found | {key: _in_gib(peak) for key, peak in peaks[name].items()}
    return peaks


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out the settings of each parameter, which an optimizer logs, and what mmdet's own models will deprecate."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', module=r'mm(det|seg)\.')
            yield
    finally:
        logger.setLevel(level)


def _with_plugins(function: Callable[..., dict], cfg: Config, *arguments: object) -> dict:
    """Call a function in a process that may not have imported what the config names."""
    with _quiet():
        import_modules_from_strings(**cfg.get('custom_imports', dict(imports=[])))
        return function(cfg, *arguments)


def _peak_of_second_run(run: Callable[[], object]) -> int | None:
    run()
    return peak_bytes(run)


def _peak_of_inference(model: nn.Module, size: int) -> int | None:
    x = torch.rand(1, 3, size, size, device=DEVICE)
    return peak_bytes(partial(backbone.infer, model, x))


def _batch(
    configs: Mapping[str, Config], models: Iterable[nn.Module], shape: tuple[int, int, int], classes: int
) -> dict:
    """A random batch for the models, which pad segmentation images to its size."""
    images, height, width = shape
    task = TASKS[next(iter(configs.values())).default_scope]
    if task == 'segmentation':
        for model in models:
            model.data_preprocessor.size = height, width  # otherwise it pads the images to the recipe's crop
    return random_batch(task, images, height, width, classes)


def _built(name: str, what: str, function: Callable[[Config], object], cfg: Config) -> Iterator[tuple[str, dict]]:
    """Build a model and return it. If that fails, yield why, and return ``None``."""
    found = _attempt(what, lambda: dict(model=function(cfg)))
    if 'errors' in found:
        yield name, found
    return found.get('model')


def _measured(
    runs: dict[str, Callable[[], None]], rounds: int, what: str, title: str, peaks: Mapping[str, Mapping]
) -> Figures:
    """Run models side by side; yield times and the peak of each under the name ``what``, or why it failed."""
    failures: dict[str, str] = {}
    for name, result in measure(runs, rounds, title, failures).items():
        yield name, {what: result | _in_gib(peaks[name][what])}
    for name, reason in failures.items():
        yield name, dict(errors={what: reason})


def _in_gib(peak: int | None) -> dict:
    return {} if peak is None else dict(peak_gib=peak / 2**30)


def _kept(model: nn.Module, x: Tensor) -> dict:
    model.train()
    return dict(kept_gib=bytes_kept_for_backward(partial(backbone.forward, model, x), model) / 2**30)


def _prepared(model: nn.Module, pixels: np.ndarray) -> Tensor:
    """An image as the backbone gets it, ``(1, C, H, W)``: normalised, and padded if the model pads."""
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    return model.data_preprocessor(dict(inputs=[image], data_samples=[BaseDataElement()]))['inputs']


def _random_field(model: nn.Module, images: list[Tensor], stride: int) -> dict:
    field = receptive_field(model, images, stride)
    return dict(random=describe(field, stride), **_reach(field, stride))


def _reach_in_double(model: nn.Module, image: Tensor, stride: int) -> dict:
    return _reach(receptive_field(model.double(), [image.double()], stride), stride)


def _reach(field: np.ndarray, stride: int) -> dict:
    return dict(reach=reach(field, stride), whole_image=reaches_all_borders(field, stride), precision=str(field.dtype))


def _trained_field(model: nn.Module, checkpoint: str, images: list[Tensor], stride: int) -> dict:
    load_weights(model, checkpoint)
    field = receptive_field(model.backbone, images, stride)
    return dict(trained=dict(checkpoint=Path(checkpoint).name, **describe(field, stride)))
