"""Launches of the gated CNN block's Triton kernels as MambaOut makes them, for :mod:`.compiled`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from backbones.mambaout import ARCHS
from backbones.ops import gate_triton, layer_norm_triton
from backbones.ops.gated_cnn_triton import padded_width

from .compiled import Compiled

BATCH, HEIGHT, WIDTH = 2, 800, 1280  # pixels
KERNEL = 7
EPS = 1e-6
DTYPES = dict(bf16=torch.bfloat16, fp16=torch.float16)
# The gate's kernels have the same code for all stages. LayerNorm has a kernel for each number of channels, rounded up
# to a power of 2: these stages have them all.
STAGES = (('tiny', 1), ('tiny', 2), ('tiny', 3), ('base', 4))


def launches() -> Iterator[tuple[str, Callable[[], object]]]:
    """Names such as ``'tiny stage 1, gate, bf16'``, and functions that launch the kernel with meta tensors."""
    for name, dtype in DTYPES.items():
        for arch, stage in STAGES:
            for kernel, launch in stage_launches(arch, stage, dtype).items():
                if 'norm' in kernel or (arch, stage) == STAGES[0]:
                    yield f'{arch} stage {stage}, {kernel}, {name}', launch


def stage_launches(arch: str, stage: int, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    """The launches of a block in one of the stages 1 to 4 of a size of MambaOut, by the names of the operations."""
    dim, stride = ARCHS[arch].dims[stage - 1], 2 ** (stage + 1)
    shape = BATCH, HEIGHT // stride, WIDTH // stride, dim
    cells = BATCH * shape[1] * shape[2]
    hidden = padded_width(int(ARCHS[arch].expansion_ratio * dim), dtype)
    h, product = _meta(cells, 2 * hidden, dtype=dtype), _meta(cells, hidden, dtype=dtype)
    rows = _meta(cells, dim, dtype=dtype)  # of the norm, and of the gradient of conv(c)
    x, parameter = _meta(*shape), _meta(dim)
    convolution = gate_triton.make_taps(_meta(dim, 1, KERNEL, KERNEL)), parameter
    taps = convolution[0]
    return {
        'gate': partial(gate_triton.gate, h, shape, *convolution, 'GELU'),
        'gate backward': partial(gate_triton.gate_backward, h, shape, *convolution, 'GELU', product),
        'convolution input backward': partial(gate_triton.conv_input_backward, rows, shape, taps, h),
        'convolution weight backward': partial(gate_triton.conv_weight_backward, rows, h, shape, taps),
        'norm': partial(layer_norm_triton.layer_norm, x, parameter, parameter, EPS, dtype),
        'norm backward': partial(layer_norm_triton.layer_norm_backward, rows, x, parameter, EPS),
    }


def instructions_per_output(kernel: Compiled) -> float | None:
    """Instructions that are executed for each output of a kernel with the convolution; ``None`` for another kernel.

    A loop's instructions count once for each of the ``KERNEL`` taps in a row. Those outside the loop count once; the
    gate's are an upper bound, because it computes plain channels with other instructions than convolved ones. The
    weight's gradient sums up after its loop over many tiles, which is left out.
    """
    tile = gate_triton.TILE
    outputs = tile['ROWS'] * tile['COLUMNS'] * tile['C'] / (32 * kernel.warps)  # of a thread
    looped = kernel.count(depth=1)
    if kernel.name == '_conv_weight_kernel':
        return KERNEL * looped / outputs
    if kernel.name in ('_gate_kernel', '_conv_input_kernel'):
        return (kernel.count() - looped + KERNEL * looped) / outputs
    return None


def _meta(*shape: int, dtype: torch.dtype = torch.float) -> Tensor:
    return torch.empty(shape, dtype=dtype, device='meta')
