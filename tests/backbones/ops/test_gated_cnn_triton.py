"""The Triton kernels of the gated CNN block compute what its modules compute, and their code is as good as it was.

Without a GPU, Triton's kernels run in its interpreter, see ``tests/conftest.py``.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from backbones.ops import gate_triton, gated_cnn
from backbones.ops.layer_norm_triton import layer_norm, layer_norm_backward
from tests.backbones.ops.test_gated_cnn import DEVICE, assert_same, blocks, outputs
from tests.conftest import ROOT

RESULTS = ROOT / 'benchmarks/results/compiled_kernels.json'
SHAPES = {  # of the input, and of the block; a tile has 5 x 16 cells and 32 channels
    'as in the paper': ((2, 3, 4, 8), {}),
    'several tiles of several images': ((2, 6, 17, 8), dict(act='silu', kernel_size=3)),
    'several blocks of channels': ((1, 2, 3, 40), dict(kernel_size=3)),
    'all channels are convolved': ((1, 4, 9, 12), dict(conv_ratio=8 / 3, kernel_size=3)),
}


@pytest.mark.parametrize('shape', SHAPES)
def test_the_kernels_equal_the_eager_block(shape):
    size, settings = SHAPES[shape]
    reference, kernels = blocks(settings, size[-1], 'eager', 'triton')
    assert_same(kernels, reference, torch.randn(size, device=DEVICE), 1e-5)


def test_strided_inputs_and_gradients_are_accepted():
    reference, kernels = blocks(dict(kernel_size=3), 8, 'eager', 'triton')
    x, grad = (torch.randn(1, 8, 3, 4, device=DEVICE).permute(0, 2, 3, 1) for _ in range(2))
    found = []
    for block in (reference, kernels):
        own = x.detach().requires_grad_()
        block(own).backward(grad)
        found.append(own.grad)
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_under_autocast_padded_widths_compute_the_same_function(dtype):
    reference, kernels = blocks(dict(expansion_ratio=2.7, kernel_size=3), 16, 'eager', 'triton')
    x = torch.randn(1, 3, 4, 16, device=DEVICE)
    exact = outputs(reference, x)
    with torch.autocast(DEVICE, dtype):
        rough, ours = outputs(reference, x), outputs(kernels, x)
    for name, value in exact.items():
        scale = value.abs().max()
        errors = [((result[name] - value).abs().max() / scale).item() for result in (ours, rough)]
        assert ours[name].dtype == rough[name].dtype and ours[name].shape == value.shape, name
        assert errors[0] < 2 * errors[1] + torch.finfo(dtype).eps, (name, errors)


def test_a_half_precision_input_gets_a_half_precision_gradient():
    """In timm's sizes, convolutions pass on such inputs under autocast."""
    reference, kernels = blocks(dict(kernel_size=3), 8, 'eager', 'triton')
    x = torch.randn(1, 2, 2, 8, device=DEVICE).half()
    with torch.autocast(DEVICE, torch.float16):
        assert_same(kernels, reference, x, 3e-3)
    assert outputs(reference.half(), x)['input'].dtype == outputs(kernels.half(), x)['input'].dtype == torch.float16


@pytest.mark.parametrize(('dtype', 'width'), [(torch.bfloat16, 48), (torch.float, 43)])
def test_hidden_widths_are_padded_to_a_multiple_of_8_in_half_precision(dtype, width):
    (block,) = blocks(dict(expansion_ratio=2.7, kernel_size=1), 16, 'triton')
    parameters = [p for layer in (block.norm, block.fc1, block.conv, block.fc2) for p in (layer.weight, layer.bias)]
    x = torch.randn(1, 2, 2, 16, device=DEVICE)
    branch, h, rest = gated_cnn.fused(x, *parameters, 1e-6, 'GELU', dtype, True, True)
    assert (branch.dtype, h.dtype, h.shape, rest.numel()) == (dtype, dtype, (4, 2 * width), 0)


def gate_of(g: Tensor) -> tuple[Tensor, Tensor]:
    """``act(g)`` and its derivative, as the kernel computes them for channels that are not convolved."""
    cells, hidden, convolved = len(g), g.shape[1] + 8, 8
    zeros = torch.zeros(cells, convolved, device=DEVICE)
    h = torch.cat((g, zeros, torch.ones_like(g), zeros), 1)
    arguments = h, (1, 1, cells, hidden), torch.zeros(1, 32, device=DEVICE), zeros[0], 'GELU'
    product = torch.ones(cells, hidden, device=DEVICE)
    grad_h, _ = gate_triton.gate_backward(*arguments, product)
    torch.testing.assert_close(product, gate_triton.gate(*arguments))
    return product[:, :-convolved], grad_h[:, : g.shape[1]]


def test_gelu_is_as_exact_as_single_precision():
    g = torch.linspace(-12, 12, 2048, device=DEVICE).view(16, 128)
    exact = g.double().requires_grad_()
    F.gelu(exact).sum().backward()
    value, slope = gate_of(g)
    scale = g.abs().clamp(min=1)
    assert ((value - F.gelu(exact)) / scale).abs().max() < 2e-7
    assert ((slope - exact.grad) / scale).abs().max() < 2e-7
    assert ((F.gelu(g, approximate='tanh') - F.gelu(exact)) / scale).abs().max() > 1e-4


@pytest.mark.parametrize('channels', [5, 48, 160])
@pytest.mark.parametrize('dtypes', [(torch.float, torch.float), (torch.float, torch.float16), (torch.float16,) * 2])
def test_layer_norm_equals_pytorchs_in_double_precision(channels, dtypes):
    torch.manual_seed(0)
    source, target = dtypes
    x = (torch.randn(2, 5, 7, channels, device=DEVICE) + 3).to(source)
    weight, bias, grad = (torch.randn(*n, channels, device=DEVICE) for n in ((), (), (70,)))
    inputs = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
    expected = F.layer_norm(inputs[0], (channels,), *inputs[1:], 1e-6).flatten(0, -2)
    rows = layer_norm(x, weight, bias, 1e-6, target)
    assert rows.dtype == target
    torch.testing.assert_close(rows.double(), expected, rtol=1e-5 if target == torch.float else 1e-3, atol=1e-4)
    gradients = layer_norm_backward(grad.to(target), x, weight, 1e-6)
    expected.backward(grad.to(target).double())
    assert [g.dtype for g in gradients] == [source, torch.float, torch.float]
    for ours, reference in zip(gradients, inputs, strict=True):
        tolerance = 1e-3 if ours.dtype == torch.float16 else 1e-5
        torch.testing.assert_close(ours.double(), reference.grad, rtol=tolerance, atol=10 * tolerance)


COMPILE = """
import json
from itertools import product

from benchmarks import gate_launches
from benchmarks.compiled import recorded
from benchmarks.compiled_kernels import CAPABILITIES, FIGURES

found = []
for (what, launch), capability in product(gate_launches.launches(), CAPABILITIES):
    if what.startswith('tiny stage 1, ') and what.endswith(', bf16'):
        with recorded(capability) as kernels:
            launch()
        for kernel in kernels:
            row = dict(GPU=CAPABILITIES[capability], what=what, kernel=kernel.name)
            found.append(row | {name: figure(kernel) for name, figure in FIGURES.items()})
with recorded(90) as kernels:
    for arch, stage in product(('tiny', 'base'), (1, 2, 3, 4)):
        launches = gate_launches.stage_launches(arch, stage, gate_launches.DTYPES['bf16'])
        [launch() for what, launch in launches.items() if 'norm' not in what]
print(json.dumps(dict(rows=found, variants=[kernel.name for kernel in kernels])))
"""


@pytest.fixture(scope='module')
def compiled() -> dict:
    """What a program without Triton's interpreter prints that compiles kernels for GPUs that need not be there."""
    environment = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    done = subprocess.run([sys.executable, '-c', COMPILE], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_compiled_kernels_keep_values_in_registers_and_access_16_bytes_at_once(compiled):
    assert len(compiled['rows']) == 12
    for row in compiled['rows']:
        assert row['spilled bytes'] == 0, row
        # sums are written once per program in single precision, and no access has 16 bits
        assert ' of 16' not in row['accesses by bits'] and '128' in row['accesses by bits'], row
        if row['kernel'] != '_norm_kernel':  # it has no loop
            assert row['accesses in loops by bits'].endswith(' of 128'), row


def test_one_compiled_kernel_serves_all_widths_and_map_sizes(compiled):
    """Otherwise, each stage of a model would wait for the compiler. The gate has two kernels: forward and backward."""
    assert sorted(compiled['variants']) == [
        '_conv_input_kernel',
        '_conv_weight_kernel',
        '_gate_kernel',
        '_gate_kernel',
    ]


def test_compiled_kernels_are_those_of_the_committed_report(compiled):
    """Another version of the compiler may choose other instructions; the same one repeats itself."""
    report = json.loads(RESULTS.read_text())
    if report['versions']['triton'] != triton.__version__:
        pytest.skip(f'the report is of Triton {report["versions"]["triton"]}')
    committed = {(row['GPU'], row['what'], row['kernel']): row for row in report['rows']}
    for row in compiled['rows']:
        before = committed[row['GPU'], row['what'], row['kernel']]
        for figure in ('registers', 'instructions', 'in loops'):
            assert abs(row[figure] - before[figure]) <= 0.02 * before[figure], (row, before)
