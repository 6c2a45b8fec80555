"""The Triton kernels of the gated CNN block beside cuDNN's depthwise convolution with a compiled gate, on CUDA."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from backbones.mambaout import ARCHS
from backbones.ops import gate_triton as kernels
from backbones.ops.gated_cnn_triton import padded_width

from .measuring import DEVICE, DTYPE, compare
from .roofline import rates

IMAGES, HEIGHT, WIDTH = 2, 800, 1280  # a detector's batch
KERNEL = 7
OTHERS, OURS = 'cuDNN, compiled gate', 'ours, triton'
CACHE = 2**30  # bytes that are written before a run: far more than a GPU's L2 cache, and longer than a launch takes


@dataclasses.dataclass(frozen=True)
class Size:
    """The map of a block.

    Args:
        height: Rows of cells.
        width: Columns of cells.
        hidden: Hidden channels.
        convolved: Convolved channels, the last of the hidden ones.
        images: Images in the batch.
    """

    height: int
    width: int
    hidden: int
    convolved: int
    images: int = IMAGES

    @property
    def cells(self) -> int:
        """Cells of all images."""
        return self.images * self.height * self.width

    def least_bytes(self, what: str) -> int:
        """Bytes in half precision that an operation of :func:`operations` must read and write, without the weights."""
        values = {
            'gate forward': 3 * self.hidden,  # g, i and c; the product
            # g, i, c and the product's gradient; the product, the gradients of g, i and conv(c)
            'gate backward': 6 * self.hidden,
            'convolution, input gradient': 2 * self.convolved,  # the gradient of conv(c); that of c
            'convolution, weight gradient': 2 * self.convolved,  # the gradient of conv(c), and c
        }
        return 2 * self.cells * values[what]


def sizes(arch: str) -> list[Size]:
    """The maps of the four stages of a published size of MambaOut, at 800x1280 pixels."""
    size, found = ARCHS[arch], []
    for stage, dim in enumerate(size.dims):
        hidden = padded_width(int(size.expansion_ratio * dim), torch.bfloat16)
        stride = 4 * 2**stage
        found.append(Size(HEIGHT // stride, WIDTH // stride, hidden, int(size.conv_ratio * dim)))
    return found


def measure_kernels(rounds: int) -> Iterator[dict]:
    """Measure each kernel ``rounds`` times in each stage of tiny and base; yields rows of the report.

    ``bandwidth`` of a row is the share of the roofline: the time of the least bytes at the rate of a copy, divided by
    the median time.
    """
    _, copy_rate = rates()
    for arch in ('tiny', 'base'):
        for size in sizes(arch):
            shape = f'{size.images}x{size.height}x{size.width}, {size.hidden} channels, {size.convolved} convolved'
            torch.compiler.reset()  # each size is compiled anew
            for what, runs in operations(random_inputs(size, DEVICE, DTYPE), torch.compile).items():
                for name, result in measure_on_device(runs, rounds).items():
                    least = size.least_bytes(what) / copy_rate
                    result['bandwidth'] = least / statistics.median(result['seconds'])
                    yield dict(suite=f'kernels {arch}', what=what, shape=shape, candidate=name, **result)


class Inputs(NamedTuple):
    """What the kernels compute with, all rows of cells.

    Args:
        h: ``[g, i, c]``, ``(cells, 2 * hidden)``.
        grad: The product's gradient, ``(cells, hidden)``.
        grad_u: The gradient of ``conv(c)``, ``(cells, convolved)``.
        grad_h: The matrix that the gradient of ``c`` is written into, ``(cells, 2 * hidden)``.
        weight: Of the convolution, ``(convolved, 1, 7, 7)``.
        bias: Of the convolution, ``(convolved,)``.
        shape: Of ``c`` as a map, ``(B, H, W, convolved)``.
    """

    h: Tensor
    grad: Tensor
    grad_u: Tensor
    grad_h: Tensor
    weight: Tensor
    bias: Tensor
    shape: torch.Size


def random_inputs(size: Size, device: str, dtype: torch.dtype) -> Inputs:
    """Random inputs of a size."""

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(dtype)

    return Inputs(
        h=random(size.cells, 2 * size.hidden),
        grad=random(size.cells, size.hidden),
        grad_u=random(size.cells, size.convolved),
        grad_h=random(size.cells, 2 * size.hidden),
        weight=random(size.convolved, 1, KERNEL, KERNEL) / KERNEL,
        bias=random(size.convolved),
        shape=torch.Size((size.images, size.height, size.width, size.convolved)),
    )


def operations(
    inputs: Inputs, compiler: Callable[[Callable], Callable]
) -> dict[str, dict[str, Callable[[], Tensor | tuple[Tensor | None, ...] | None]]]:
    """What is measured, by the name of the operation and of the candidate.

    The first candidate has ``c`` as a map of its own, which spares it a copy of columns of ``h``. Our gate writes the
    product over ``grad``, and our convolution writes the gradient of ``c`` to the last columns of ``grad_h``.

    Args:
        inputs: All tensors.
        compiler: Compiles the gate of the first candidate: ``torch.compile``, or a function that changes nothing.
    """
    h, grad, grad_u, grad_h, weight, bias, shape = inputs
    convolved = shape[-1]
    c = h[:, -convolved:].contiguous().view(shape)
    taps, wide_bias = kernels.make_taps(weight.float()), bias.float()  # ours takes parameters in single precision
    maps = [rows.view(shape).permute(0, 3, 1, 2) for rows in (grad_u, c)]
    gate, gate_backward = compiler(gate_of_rows), compiler(gate_backward_of_rows)

    def convolve() -> Tensor:
        u = F.conv2d(maps[1], weight, bias, padding=KERNEL // 2, groups=convolved)
        return u.permute(0, 2, 3, 1).flatten(0, -2)

    def gradients(*wanted: bool) -> tuple[Tensor | None, ...]:
        stride, padding, dilation = [1, 1], [KERNEL // 2] * 2, [1, 1]
        return torch.ops.aten.convolution_backward(
            *maps, weight, [convolved], stride, padding, dilation, False, [0, 0], convolved, wanted
        )

    return {
        'gate forward': {
            OTHERS: lambda: gate(h, convolve()),
            OURS: lambda: kernels.gate(h, shape, taps, wide_bias, 'GELU'),
        },
        'gate backward': {
            OTHERS: lambda: gate_backward(h, convolve(), grad),
            OURS: lambda: kernels.gate_backward(h, shape, taps, wide_bias, 'GELU', grad),
        },
        'convolution, input gradient': {
            OTHERS: lambda: gradients(True, False, False),
            OURS: lambda: kernels.conv_input_backward(grad_u, shape, taps, grad_h),
        },
        'convolution, weight gradient': {
            OTHERS: lambda: gradients(False, True, True),
            OURS: lambda: kernels.conv_weight_backward(grad_u, h, shape, taps),
        },
    }


def gate_of_rows(h: Tensor, u: Tensor) -> Tensor:
    """The product ``gelu(g) * [i, u]`` of ``h = [g, i, c]`` and ``u = conv(c)``, one row per cell."""
    g, i, _ = split(h, u)
    return F.gelu(g) * torch.cat((i, u), 1)


def gate_backward_of_rows(h: Tensor, u: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of ``[g, i]`` and of ``u``, and the product again, from the product's gradient."""
    g, i, _ = split(h, u)
    value, factor = F.gelu(g), torch.cat((i, u), 1)
    grad_g = torch.ops.aten.gelu_backward(grad * factor, g)
    grad_i, grad_u = (grad * value).split([i.shape[1], u.shape[1]], 1)
    return torch.cat((grad_g, grad_i), 1), grad_u.contiguous(), value * factor


def split(h: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The columns ``g``, ``i`` and ``c`` of ``h``."""
    hidden, convolved = h.shape[1] // 2, u.shape[1]
    return h.split([hidden, hidden - convolved, convolved], 1)


def measure_on_device(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, dict]:
    """Measure the GPU's time of each candidate, once a round, in turn; the results are those of :func:`compare`.

    Before each run, the GPU writes ``CACHE`` bytes. So the L2 cache holds nothing of the inputs, and the host has
    launched the run before the GPU begins with it.
    """
    for run in runs.values():  # compiles
        for _ in range(3):
            run()
    flushed = torch.empty(CACHE, dtype=torch.uint8, device=DEVICE)
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            flushed.zero_()
            start.record()
            run()
            end.record()
            events[name].append((start, end))
    torch.cuda.synchronize()
    return compare({name: [s.elapsed_time(e) / 1e3 for s, e in pairs] for name, pairs in events.items()})
