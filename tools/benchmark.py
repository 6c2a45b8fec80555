#!/usr/bin/env python
"""Speed and memory against peers, measured side by side in one process.

    python tools/benchmark.py benchmarks/results/NAME --arch tiny base --sweep      all but input, sizes by device
    python tools/benchmark.py OUT --suites backbone --arch base --shapes 2x800x1280

Suites: `backbone` (the forward pass, and the training step), `detection` and `segmentation` (the whole training step
and inference of Mask R-CNN and UperNet, on drawn images), `scan` (the selective scan over a detector's largest map),
`evaluation` (COCO's scores by two libraries), `input` (the transforms of the training images in `data/`). Peers sit
behind the same heads. In each round every candidate runs once, in turn; what is reported is the median of the rounds'
ratios to the first candidate, with their range: an absolute time says little on a machine that others share.

Writes OUT.json, with all times and how they were taken, OUT.md, a table, and OUT.png, ratios over sizes. The rate of
matrix products and of copies is measured, too; `roofline` is the least time that any candidate's operators would need
at these rates, over the time that the candidate took. `profile`, in the JSON, names what takes most of a step, and
`busy`, on CUDA, is the share of the time in which the GPU computes.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import doctor  # says what to type if an import below fails
import functools
import io
import itertools
import pickle
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import matplotlib.pyplot as plt
import numpy as np
import timm
import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.structures import InstanceData, PixelData
from pycocotools import mask as mask_api
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from backbones.errors import UserError
from backbones.mambaout import ARCHS, MambaOut
from backbones.ops import gated_cnn
from backbones.ops.selective_scan import selective_scan
from mmdet_plugin.metric import evaluator
from mmengine_plugin import config, launch
from mmengine_plugin.files import whole_file, write_json

plt.switch_backend('agg')
CUDA = torch.cuda.is_available()
DEVICE = 'cuda' if CUDA else 'cpu'
DTYPE = torch.bfloat16 if CUDA else torch.float32
SHAPES = dict(  # images x height x width
    backbone=['2x800x1280', '16x512x512'] if CUDA else ['1x800x1280'],
    detection=['2x800x1280'] if CUDA else ['1x800x1280'],
    segmentation=['16x512x512'] if CUDA else ['2x512x512'],
)
COMPILED = ', compiled'  # at the end of a candidate's name
SCANS = {'VMamba tiny_s1l8': (64000, 96, 1), 'VMamba tiny': (64000, 192, 16)}  # positions, channels, states
SWEEP = ['1x256x256', '1x512x512', '1x800x1280', *(['1x1024x2048'] if CUDA else [])]  # of the plot


@MODELS.register_module()
class TimmBackbone(BaseModule):
    """timm's model as OpenMMLab's TIMMBackbone has it, its maps as heads take them: what one would do without us."""

    def __init__(self, arch: str, init_cfg: None = None) -> None:
        super().__init__()
        self.model = timm.create_model(arch, features_only=True)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images to maps ``(B, C, H, W)``."""
        return tuple(x.permute(0, 3, 1, 2).contiguous() for x in self.model(x))


@MODELS.register_module()
class UnalignedMambaOut(MambaOut):
    """Ours with as many hidden channels as published, where its kernels would take a multiple of 8."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images to maps ``(B, C, H, W)``."""
        with patch.object(gated_cnn, 'ALIGNED', 1):
            return super().forward(x)


def candidates(arch: str) -> dict[str, dict]:
    """Backbones of the same function, by the name in the table; the first is what the others are compared with."""
    found = {'timm': dict(type='TimmBackbone', arch=f'mambaout_{arch}')}
    for form in ('eager', 'fused', 'triton') if CUDA else ('eager', 'fused'):
        found[f'ours, {form}'] = dict(type='MambaOut', arch=arch, out_norm=False, gated_cnn=form)
    if CUDA:  # on a CPU the compiler needs another one, for C++
        found |= {f'{name}{COMPILED}': dict(found[name]) for name in ('timm', 'ours, eager', 'ours, triton')}
        size = ARCHS[arch]
        if any(int(size.expansion_ratio * dim) % gated_cnn.ALIGNED for dim in size.dims):
            found['ours, triton, unaligned'] = dict(found['ours, triton'], type='UnalignedMambaOut')
    return found


def build(candidate: str, cfg: dict) -> nn.Module:
    """A backbone, or a model with one, on the device."""
    model = MODELS.build(cfg).to(DEVICE)
    if candidate.endswith(COMPILED):
        getattr(model, 'backbone', model).compile()
    return model


def others() -> dict[str, tuple[dict, list[int]]]:
    """Backbones of another function and about the size of tiny, with their channels."""
    swin = dict(type='SwinTransformer', embed_dims=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24])
    found = {'Swin-T': (swin, [96, 192, 384, 768])}
    if find_spec('mmpretrain'):
        convnext = dict(type='mmpretrain.ConvNeXt', arch='tiny', out_indices=[0, 1, 2, 3], gap_before_final_norm=False)
        found['ConvNeXt-T'] = (convnext, [96, 192, 384, 768])
    return found


# --- measuring


def measure(runs: dict[str, Callable[[], object]], rounds: int, what: str) -> dict[str, dict]:
    """Times of each candidate, taken in turn, and their ratios to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    memory = {}
    for number in tqdm(range(-1, rounds), desc=what, leave=False):  # the first round warms up
        for name, run in runs.items():
            if CUDA:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                held = torch.cuda.memory_allocated()  # by the weights and optimizers of all candidates
            begun = time.perf_counter()
            run()
            if CUDA:
                torch.cuda.synchronize()
                memory[name] = (torch.cuda.max_memory_allocated() - held) / 2**30
            if number >= 0:
                seconds[name].append(time.perf_counter() - begun)
    results = compare(seconds)
    for name, peak in memory.items():
        results[name]['peak_gib'] = peak
    return results


def compare(seconds: dict[str, list[float]]) -> dict[str, dict]:
    """The ratios of each candidate's times to the first's."""
    first = next(iter(seconds.values()))
    results = {}
    for name, times in seconds.items():
        ratios = [t / f for t, f in zip(times, first, strict=True)]
        results[name] = dict(ratio=statistics.median(ratios), low=min(ratios), high=max(ratios), seconds=times)
    return results


def profile(run: Callable[[], object], result: dict) -> None:
    """Add what takes a run's time to its measured result.

    ``profile`` has the shares of the ten operators, or kernels on CUDA, that take most; ``busy``, on CUDA, is the time
    of all kernels over the median time of the run: the rest of the time, the GPU waits for the host.
    """
    with torch.profiler.profile() as profiler:
        run()
        if CUDA:
            torch.cuda.synchronize()
    device = torch.autograd.DeviceType.CUDA if CUDA else torch.autograd.DeviceType.CPU
    events = [e for e in profiler.key_averages() if e.device_type == device and not e.is_user_annotation]
    times = {e.key: e.self_device_time_total if CUDA else e.self_cpu_time_total for e in events}
    largest = sorted(times, key=times.get, reverse=True)[:10]
    result['profile'] = {name: times[name] / sum(times.values()) for name in largest}
    if CUDA:
        result['busy'] = sum(times.values()) / 1e6 / statistics.median(result['seconds'])


def kept(run: Callable[[], object], model: nn.Module) -> int:
    """Bytes of what a forward pass keeps for the backward pass, parameters excluded."""
    storages = {}

    def pack(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = run()
    for parameter in model.parameters():
        storages.pop(parameter.untyped_storage().data_ptr(), None)
    del output
    return sum(storage.nbytes() for storage in storages.values())


@functools.cache
def rates() -> tuple[float, float]:
    """Measured operations a second in matrix products, and bytes a second of copies: the machine's roofline."""
    size = 8192 if CUDA else 2048
    a, b = (torch.rand(size, size, device=DEVICE, dtype=DTYPE) for _ in range(2))
    source, target = (torch.rand(2**28 if CUDA else 2**26, device=DEVICE) for _ in range(2))
    product = measure({'': lambda: a @ b}, 10, 'matrix products')['']['seconds']
    copied = measure({'': lambda: target.copy_(source)}, 10, 'copies')['']['seconds']
    return 2 * size**3 / min(product), 2 * source.nbytes / min(copied)


class Roofline(TorchDispatchMode):
    """Adds up the least time of each operator: its operations and its inputs and outputs at the machine's rates."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def __torch_dispatch__(self, func: Callable, types: tuple, args: tuple = (), kwargs: dict | None = None) -> object:
        formulas = {torch.ops.aten.convolution_backward: _conv_backward}
        with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
            out = func(*args, **(kwargs or {}))
        if not func.is_view and 'empty' not in func.__name__:
            tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
            operations, copied = rates()
            moved = sum(t.nbytes for t in tensors)
            self.seconds += max(counter.get_total_flops() / operations, moved / copied)
        return out


def _conv_backward(grad: tuple, x: tuple, weight: tuple, *args, out_shape: tuple, **kwargs) -> int:
    """PyTorch's own formula takes a depthwise convolution's gradient for a dense one's."""
    computed = sum(shape is not None for shape in out_shape[:2])
    return 2 * computed * int(np.prod(weight)) * int(np.prod(grad)) // grad[1]


# --- suites


def backbone(arch: str, shapes: list[str], rounds: int, sweep: bool) -> Iterator[dict]:
    """The forward pass without gradients, and the training step, of the backbone alone."""
    models = {name: build(name, cfg) for name, cfg in candidates(arch).items()}
    for shape in [*shapes, *((s for s in SWEEP if s not in shapes) if sweep else ())]:
        torch.compiler.reset()  # each size has a program of its own
        images, height, width = map(int, shape.split('x'))
        x = torch.rand(images, 3, height, width, device=DEVICE)

        def forward(model: nn.Module, x: Tensor = x) -> list[Tensor]:
            with torch.autocast(DEVICE, DTYPE, enabled=CUDA):
                return model(x)

        def infer(model: nn.Module) -> None:
            with torch.no_grad():
                forward(model)

        def step(model: nn.Module) -> None:
            sum(m.float().mean() for m in forward(model)).backward()
            model.zero_grad()  # here, so that the gradients are none of what is held before a step

        for what, run in dict(inference=infer, step=step).items():
            found = measure({n: functools.partial(run, m) for n, m in models.items()}, rounds, f'{what} {shape}')
            least = float('inf')
            for name, model in models.items() if what == 'step' else ():
                if not name.endswith(COMPILED):
                    found[name]['kept_gib'] = kept(functools.partial(forward, model), model) / 2**30
                    with Roofline() as roofline:
                        step(model)
                    least = min(least, roofline.seconds)
            for name, result in found.items():
                if what == 'step':
                    result['roofline'] = least / statistics.median(result['seconds'])
                    profile(functools.partial(step, models[name]), result)
                yield dict(suite=f'backbone {arch}', what=what, shape=shape, candidate=name, **result)


def whole(task: str, arch: str, shapes: list[str], rounds: int) -> Iterator[dict]:
    """The whole training step and inference of a detector or segmentor, behind which all backbones sit alike."""
    name = f'{"mask_rcnn" if task == "detection" else "upernet"}_mambaout_{arch}'
    cfg = Config.fromfile(config(name))
    init_default_scope(cfg.default_scope)
    cfg.optim_wrapper.pop('paramwise_cfg')  # says a line for each parameter, and costs no time
    cfg.optim_wrapper.dtype = 'bfloat16'  # on CUDA
    if task == 'detection':
        cfg.model.test_cfg.rcnn.score_thr = 0.0  # as many boxes, and so masks, for each candidate's random weights
    dims = list(ARCHS[arch].dims)
    found = {n: (dict(c, out_norm=True) if 'out_norm' in c else c, dims) for n, c in candidates(arch).items()}
    made = {}
    for candidate, (body, channels) in {**found, **others()}.items():
        model = copy.deepcopy(cfg.model)
        model.backbone = body
        if task == 'detection':
            model.neck.in_channels = channels
        else:
            model.decode_head.in_channels, model.auxiliary_head.in_channels = channels, channels[2]
        model = build(candidate, model)
        made[candidate] = model, build_optim_wrapper(model, cfg.optim_wrapper)
    for shape in shapes:
        batch = draw(task, *map(int, shape.split('x')))

        def step(model: nn.Module, wrapper: object, batch: dict = batch) -> None:
            model.train().train_step(copy.deepcopy(batch), wrapper)

        def infer(model: nn.Module, _: object, batch: dict = batch) -> None:
            with torch.no_grad(), torch.autocast(DEVICE, DTYPE, enabled=CUDA):
                model.eval().test_step(copy.deepcopy(batch))

        for what, run in dict(step=step, inference=infer).items():
            runs = {n: functools.partial(run, *m) for n, m in made.items()}
            for candidate, result in measure(runs, rounds, f'{task} {what} {shape}').items():
                if what == 'step':
                    profile(runs[candidate], result)
                if CUDA:
                    result['images_per_second'] = len(batch['inputs']) / statistics.median(result['seconds'])
                yield dict(suite=f'{task} {arch}', what=what, shape=shape, candidate=candidate, **result)


def draw(task: str, images: int, height: int, width: int) -> dict:
    """A batch of noise with 10 objects an image, or with labels in squares."""
    from mmdet.structures import DetDataSample  # after our plugins, which stand in for mmcv's operators
    from mmdet.structures.mask import BitmapMasks
    from mmseg.structures import SegDataSample

    random = np.random.default_rng(0)
    inputs = [torch.from_numpy(random.integers(0, 256, (3, height, width), dtype=np.uint8)) for _ in range(images)]
    meta = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), (height, width))
    meta['scale_factor'] = (1.0, 1.0)
    samples = []
    for number in range(images):
        meta['img_id'] = number
        if task == 'detection':
            corner = random.uniform(0, 0.7, (10, 2)) * (width, height)
            boxes = np.concatenate((corner, corner + random.uniform(0.05, 0.3, (10, 2)) * (width, height)), axis=1)
            masks = np.zeros((10, height, width), np.uint8)
            for mask, (x1, y1, x2, y2) in zip(masks, boxes.astype(int), strict=True):
                mask[y1 : y2 + 1, x1 : x2 + 1] = 1
            labels = torch.from_numpy(random.integers(0, 80, 10))
            truth = InstanceData(
                bboxes=torch.tensor(boxes).float(), labels=labels, masks=BitmapMasks(masks, height, width)
            )
            sample = DetDataSample(
                metainfo=meta, gt_instances=truth, ignored_instances=InstanceData(bboxes=torch.zeros(0, 4))
            )
        else:
            squares = random.integers(0, 150, (1, height // 32, width // 32)).repeat(32, 1).repeat(32, 2)
            sample = SegDataSample(metainfo=meta, gt_sem_seg=PixelData(data=torch.from_numpy(squares)))
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


def scans(rounds: int) -> Iterator[dict]:
    """One direction of a selective scan over the map of stride 4 of 800x1280 pixels, with gradients and without."""
    for model, (length, channels, states) in SCANS.items():
        u, delta = torch.randn(2, 1, length, channels, device=DEVICE)
        B, C = torch.randn(2, 1, length, states, device=DEVICE)
        A = -torch.arange(1.0, states + 1, device=DEVICE).expand(channels, -1)
        D, bias = torch.ones(channels, device=DEVICE), torch.full((channels,), -4.0, device=DEVICE)
        inputs = [tensor.contiguous().requires_grad_() for tensor in (u, delta, A, B, C, D, bias)]

        def infer(form: str, inputs: list[Tensor] = inputs) -> None:
            with torch.no_grad():
                selective_scan(*inputs, form=form)

        def step(form: str, inputs: list[Tensor] = inputs) -> None:
            torch.autograd.grad(selective_scan(*inputs, form=form).sum(), inputs)

        for what, run in dict(inference=infer, step=step).items():
            forms = ('chunked', 'triton') if CUDA else ('reference', 'chunked')  # the loop says nothing of a GPU
            found = measure({form: functools.partial(run, form) for form in forms}, rounds, f'scan {model} {what}')
            shape = f'{length}x{channels}, {states} state{"s" if states > 1 else ""}'
            for candidate, result in found.items():
                yield dict(suite=f'scan, {model}', what=what, shape=shape, candidate=candidate, **result)


def evaluation(rounds: int, images: int = 490, objects: int = 100) -> Iterator[dict]:
    """COCO's scores of noisy copies of drawn boxes and their masks, by each library."""
    random, size = np.random.default_rng(0), (480, 640)
    truth, found = COCO(), []
    marks: list[dict] = []
    for image in range(images):
        corner = random.uniform(0, 0.8, (objects, 2)) * size[::-1]
        extent = random.uniform(0.02, 0.2, (objects, 2)) * size[::-1]
        for number, box in enumerate(np.concatenate((corner, extent), axis=1)):
            category = int(random.integers(1, 81))
            for copied, target in ((box, marks), (box + random.normal(0, 3, 4), found)):
                copied = np.maximum(copied, 1)
                rle = mask_api.frPyObjects(copied[None], *size)[0]
                mark = dict(image_id=image, category_id=category, bbox=copied.tolist(), segmentation=rle)
                target.append(mark | dict(area=float(mask_api.area(rle)), iscrowd=0, score=random.uniform()))
            marks[-1]['id'] = image * objects + number + 1
    kinds = [dict(id=number) for number in range(1, 81)]
    truth.dataset = dict(
        images=[dict(id=i, height=size[0], width=size[1]) for i in range(images)], annotations=marks, categories=kinds
    )
    truth.createIndex()
    for kind in ('bbox', 'segm'):
        results = truth.loadRes(
            found if kind == 'segm' else [{k: d[k] for k in d if k != 'segmentation'} for d in found]
        )

        def count(make: Callable, kind: str = kind, results: COCO = results) -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                scores = make(truth, results, kind)
                scores.evaluate()
                scores.accumulate()

        runs = {
            'pycocotools': functools.partial(count, COCOeval),
            'faster-coco-eval': functools.partial(count, evaluator),
        }
        for candidate, result in measure(runs, rounds, f'evaluation {kind}').items():
            shape = f'{len(found)} detections'
            yield dict(suite='evaluation', what=kind, shape=shape, candidate=candidate, **result)


def loading(rounds: int, images: int = 80) -> Iterator[dict]:
    """What one worker takes to load images for training, and the share of each transform in it."""
    for task, path in dict(detection='mask_rcnn_mambaout_tiny', segmentation='upernet_mambaout_tiny').items():
        cfg = Config.fromfile(config(path))
        init_default_scope(cfg.default_scope)
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        indices = range(min(images, len(dataset)))
        seconds: dict[str, list[float]] = {}
        for number in tqdm(range(-1, rounds), desc=f'input {task}', leave=False):  # the first round warms up
            taken = dict(whole=0.0)
            for index in indices:
                sample = dataset.get_data_info(index)
                for transform in (*dataset.pipeline.transforms, handed_over):
                    begun = time.perf_counter()
                    sample = transform(sample)
                    name = getattr(transform, '__name__', type(transform).__name__)
                    taken[name] = taken.get(name, 0.0) + time.perf_counter() - begun
            taken['whole'] = sum(taken.values())
            for name, total in taken.items() if number >= 0 else ():
                seconds.setdefault(name, []).append(total)
        for candidate, result in compare(seconds).items():
            if candidate == 'whole':
                result['images_per_second'] = len(indices) / statistics.median(result['seconds'])
            yield dict(suite='input', what=task, shape=f'{len(indices)} images', candidate=candidate, **result)


def handed_over(sample: dict) -> object:
    """A sample without its image as the training process gets it from a worker: a detector's masks byte by byte."""
    return pickle.loads(pickle.dumps(sample['data_samples']))


# --- results


def table(rows: list[dict]) -> str:
    """The rows in Markdown."""
    columns = ['what', 'size', 'candidate', 'time, ratio to the first', 'low to high']
    columns += ['images/s', 'peak beyond weights (GiB)', 'kept for backward (GiB)', 'roofline']
    lines = [f'| {" | ".join(columns)} |', '|---' * len(columns) + '|']
    for row in rows:
        parts = [f'{row["suite"]}, {row["what"]}', row['shape'], row['candidate'], f'{row["ratio"]:.3f}']
        parts.append(f'{row["low"]:.3f} to {row["high"]:.3f}')
        figures = ('images_per_second', 'peak_gib', 'kept_gib', 'roofline')
        parts += [f'{row[figure]:.2f}' if figure in row else '' for figure in figures]
        lines.append(f'| {" | ".join(parts)} |')
    return '\n'.join(lines) + '\n'


def plot(rows: list[dict], path: Path) -> None:
    """Ratios over the number of pixels, of the backbones alone."""
    suites = list(dict.fromkeys(row['suite'] for row in rows))
    figure, axes = plt.subplots(
        len(suites), 2, figsize=(10, 4 * len(suites)), layout='constrained', sharey=True, squeeze=False
    )
    for (suite, what), axis in zip(itertools.product(suites, ('inference', 'step')), axes.flat, strict=True):
        shown = [row for row in rows if (row['suite'], row['what']) == (suite, what)]
        for candidate in dict.fromkeys(row['candidate'] for row in shown):
            points = sorted(
                (np.prod([int(n) for n in row['shape'].split('x')]) / 1e6, row['ratio'], row['low'], row['high'])
                for row in shown
                if row['candidate'] == candidate
            )
            pixels, ratio, low, high = zip(*points, strict=True)
            axis.plot(pixels, ratio, 'o-', label=candidate)
            axis.fill_between(pixels, low, high, alpha=0.15)
        axis.set(title=f'{suite}, {what}', xlabel='megapixels in the batch', xscale='log', ylim=(0, None))
        axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel('time, ratio to the first candidate')
        axis.legend()
    with whole_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


def report(rows: list[dict], out: Path) -> None:
    """Write the rows, and all that is needed to take them again."""
    how = doctor.taken('triton', 'mmpretrain')
    if CUDA:
        how['device'] = torch.cuda.get_device_name()
    operations, copied = rates()
    write_json(
        f'{out}.json',
        dict(
            **how,
            threads=torch.get_num_threads(),
            dtype=str(DTYPE).removeprefix('torch.'),
            matrix_products_per_second=operations,
            copied_bytes_per_second=copied,
            rows=rows,
        ),
    )
    with whole_file(f'{out}.md') as temporary:
        temporary.write_text(table(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', help='results, without an ending')
    suites = ['backbone', 'detection', 'segmentation', 'scan', 'evaluation', 'input']
    parser.add_argument(
        '--suites', nargs='+', choices=suites, default=suites[:-1], help='(default: all but input, which needs data/)'
    )
    parser.add_argument('--arch', nargs='+', choices=ARCHS, default=['tiny'], help='of MambaOut (default: tiny)')
    parser.add_argument('--shapes', nargs='+', metavar='BxHxW', help='images, height and width (default: by suite)')
    parser.add_argument('--rounds', type=int, default=20 if CUDA else 5, help='(default: 20 on CUDA, else 5)')
    parser.add_argument('--sweep', action='store_true', help='measure the backbone at more sizes, for the plot')
    args = parser.parse_args()
    for shape in args.shapes or ():
        if len(parts := shape.split('x')) != 3 or not all(part.isdecimal() and int(part) for part in parts):
            raise UserError(f'--shapes {shape}: three numbers are wanted, such as 2x800x1280')
        if parts[0] == '1' and 'segmentation' in args.suites:
            raise UserError(f'--shapes {shape}: UperNet trains on 2 images or more')
    torch.manual_seed(0)
    rows = []
    for suite in args.suites:
        for arch in args.arch if suite in SHAPES else ('',):
            shapes = args.shapes or SHAPES.get(suite)
            if suite == 'backbone':
                found = backbone(arch, shapes, args.rounds, args.sweep)
            elif suite in SHAPES:
                found = whole(suite, arch, shapes, args.rounds)
            else:
                found = dict(scan=scans, evaluation=evaluation, input=loading)[suite](args.rounds)
            for row in found:
                rows.append(row)
                report(rows, Path(args.out))  # after each, so that an interrupted run loses none
    if backbones := [row for row in rows if row['suite'].startswith('backbone')]:
        plot(backbones, Path(f'{args.out}.png'))
    print(table(rows))


if __name__ == '__main__':
    launch.run(main)
