"""All implementations of the selective scan agree, are exact over long sequences and need little memory.

Without a GPU, Triton's kernels run in its interpreter, see ``tests/conftest.py``.
"""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
import triton
from mmengine.analysis import FlopAnalyzer
from mmengine.analysis.jit_handles import get_shape
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from backbones import UserError
from backbones.ops import selective_scan as module
from backbones.ops.scan_orders import ORDERS, Lines
from backbones.ops.selective_scan import scan_lines, selective_scan
from backbones.ops.selective_scan_triton import GROUP
from tests.conftest import ROOT

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
NAMES = 'u', 'delta', 'A', 'B', 'C', 'D', 'delta_bias'
SHAPES = {  # batch, L, D, N
    'one state': (2, 11, 5, 1),
    'sixteen states': (1, 7, 3, 16),
    'several channel blocks, and a number of states that is no power of 2': (1, 5, 70, 3),
    'all chunks full': (1, 9, 2, 2),
    'one position': (2, 1, 4, 3),
}


def make(batch: int, length: int, channels: int, states: int, dtype: torch.dtype = torch.float) -> list[Tensor]:
    """Random inputs with typical decays, from about 0.3 to 1."""
    torch.manual_seed(0)
    u, delta = (torch.randn(batch, length, channels) for _ in range(2))
    B, C = (torch.randn(batch, length, states) for _ in range(2))
    A = -torch.arange(1.0, states + 1) * (0.5 + torch.rand(channels, states))
    D, bias = torch.randn(channels), torch.empty(channels).uniform_(math.log(1e-3), math.log(1e-1))
    inputs = u, delta, A, B, C, D, bias
    return [tensor.to(DEVICE, dtype).requires_grad_() for tensor in inputs]


def loop(grad: Tensor, *inputs: Tensor) -> list[Tensor]:
    """The output and the gradients of all inputs, position by position, in double precision."""
    grad, u, delta, A, B, C, D, bias = (tensor.detach().double() for tensor in (grad, *inputs))
    raw = delta + bias
    step = torch.logaddexp(raw, torch.zeros_like(raw))
    decay = torch.exp(step[..., None] * A)
    enters, leaves = (step * u)[..., None] * B[:, :, None], grad[..., None] * C[:, :, None]
    h = [torch.zeros_like(enters[:, 0])]
    for a, x in zip(decay.unbind(1), enters.unbind(1), strict=True):
        h.append(a * h[-1] + x)
    before, h = torch.stack(h[:-1], 1), torch.stack(h[1:], 1)
    g, behind = [], torch.zeros_like(enters[:, 0])
    for a, x in zip(reversed(decay.unbind(1)), reversed(leaves.unbind(1)), strict=True):
        g.append(behind + x)
        behind = a * g[-1]
    g = torch.stack(g[::-1], 1)
    grad_exponent = g * before * decay
    grad_enters = (g * B[:, :, None]).sum(-1)
    grad_delta = ((grad_exponent * A).sum(-1) + grad_enters * u) * torch.sigmoid(raw)
    return [
        (C[:, :, None] * h).sum(-1) + D * u,
        grad_enters * step + D * grad,
        grad_delta,
        (grad_exponent * step[..., None]).sum((0, 1)),
        (g * (step * u)[..., None]).sum(2),
        (grad[..., None] * h).sum(2),
        (grad * u).sum((0, 1)),
        grad_delta.sum((0, 1)),
    ]


def outputs(grad: Tensor, *inputs: Tensor, implementation: str) -> list[Tensor]:
    """The output and the gradients of all inputs."""
    y = selective_scan(*inputs, implementation=implementation)
    return [y, *torch.autograd.grad(y, inputs, grad.to(y.dtype))]


def assert_close(ours: list[Tensor], exact: list[Tensor], tolerance: float) -> None:
    """Compare by the L2 norm of the difference, relative to that of the exact values."""
    for name, value, expected in zip(('output', *NAMES), ours, exact, strict=True):
        assert value.shape == expected.shape, name
        assert (value.double() - expected).norm() <= tolerance * expected.norm(), name


@pytest.mark.parametrize('many_blocks', [False, True], ids=['one block', 'many blocks'])
@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('implementation', ['reference', 'chunked', 'triton'])
def test_the_scan_equals_a_loop_over_positions(implementation, shape, many_blocks, monkeypatch):
    if many_blocks:
        monkeypatch.setattr(module, 'CACHE_VALUES', 1)
        monkeypatch.setattr('backbones.ops.selective_scan_triton.CARRIED', 2)
    inputs = make(*SHAPES[shape])
    grad = torch.randn_like(inputs[0])
    assert_close(outputs(grad, *inputs, implementation=implementation), loop(grad, *inputs), 1e-5)
    inputs = make(*SHAPES[shape], dtype=torch.double)
    assert_close(outputs(grad, *inputs, implementation=implementation), loop(grad, *inputs), 1e-13)


@pytest.mark.parametrize('states', [1, 16])
def test_the_scan_is_exact_over_a_detectors_longest_sequence(states):
    """It has one position per cell of the map at stride 4 of an image of 800x1280 pixels."""
    inputs = make(1, 200 * 320, 4, states)
    grad = torch.randn_like(inputs[0])
    assert_close(outputs(grad, *inputs, implementation='chunked'), loop(grad, *inputs), 1e-5)


@pytest.mark.parametrize('states', [1, 3])
def test_gradients_equal_finite_differences(states):
    assert torch.autograd.gradcheck(selective_scan, make(2, 5, 2, states, torch.double))


@pytest.mark.parametrize('implementation', ['reference', 'chunked', 'triton'])
def test_a_scan_of_constants_is_a_geometric_series(implementation):
    length, ones, rates = 12, torch.ones(1, 12, 1, device=DEVICE), torch.tensor([-0.1, -1.0, -50.0], device=DEVICE)
    bias = torch.tensor([math.log(math.e - 1)] * 3, device=DEVICE)  # softplus of it is 1
    y = selective_scan(
        ones.expand(-1, -1, 3), ones.expand(-1, -1, 3) * 0, rates[:, None], ones, ones, None, bias, implementation
    )
    t = torch.arange(1.0, length + 1, device=DEVICE)[:, None]
    torch.testing.assert_close(y[0], (1 - torch.exp(t * rates)) / (1 - torch.exp(rates)))


@pytest.mark.parametrize('implementation', ['reference', 'chunked', 'triton'])
def test_with_step_sizes_of_zero_only_the_skip_connection_remains(implementation):
    u, delta, A, B, C, D, _ = make(1, 10, 3, 2)
    assert torch.equal(selective_scan(u, delta - 1e4, A, B, C, D, implementation=implementation), D * u)
    assert selective_scan(u, delta - 1e4, A, B, C, implementation=implementation).abs().max() == 0


@pytest.mark.parametrize('implementation', ['chunked', 'triton'])
@pytest.mark.parametrize('scale', [1e-30, 1e30])
def test_extreme_decays_give_finite_results(implementation, scale):
    """Products of decays reach 0 and 1, and dividing by them would give infinities."""
    inputs = make(1, 10, 3, 2)
    inputs[2] = (inputs[2] * scale).detach().requires_grad_()
    grad = torch.ones_like(inputs[0])
    assert_close(outputs(grad, *inputs, implementation=implementation), loop(grad, *inputs), 1e-5)


@pytest.mark.parametrize('implementation, length', [('reference', 500), ('chunked', 5000), ('triton', 12)])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_under_autocast_states_and_sums_are_in_single_precision(implementation, length, dtype):
    """Only the inputs and their gradients are rounded to half precision."""
    inputs = [x if x.dim() < 3 else x.detach().to(dtype).requires_grad_() for x in make(1, length, 4, 2)]
    inputs[2] = (inputs[2] / 50).detach().requires_grad_()  # states remember hundreds of positions
    grad = torch.randn(1, length, 4, device=DEVICE).to(dtype)
    single = outputs(grad.float(), *(x.float() for x in inputs), implementation=implementation)
    assert_close(single, loop(grad, *inputs), 1e-5)
    with torch.autocast(DEVICE, dtype):
        half = outputs(grad, *inputs, implementation=implementation)
    for name, value, expected, x in zip(('output', *NAMES), half, single, [single[0], *inputs], strict=True):
        rounding = dict(rtol=torch.finfo(x.dtype).eps, atol=0)  # Triton's interpreter truncates
        torch.testing.assert_close(value, expected.to(x.dtype), **rounding, msg=name)


@pytest.mark.parametrize('implementation', ['chunked', 'triton'])
def test_results_beyond_the_range_of_half_precision_stay_finite(implementation):
    inputs = [x if x.dim() < 3 else torch.full_like(x, 60).half() for x in make(1, 6, 4, 2)]
    y = selective_scan(*inputs, implementation=implementation)
    assert y.max() > torch.finfo(torch.half).max
    torch.testing.assert_close(y, selective_scan(*(x.float() for x in inputs), implementation='reference'))


@pytest.mark.parametrize('wrong', ['delta', 'A', 'B', 'C'])
def test_an_input_of_a_wrong_shape_is_refused_by_name(wrong):
    inputs = dict(zip('u delta A B C D'.split(), make(1, 5, 4, 2), strict=False))
    inputs[wrong] = inputs[wrong][..., :-1, :]
    with pytest.raises(ValueError, match=f'selective_scan: {wrong} is .* and must be '):
        selective_scan(**inputs)


@pytest.mark.parametrize('implementation', ['chunked', 'triton'])
def test_inputs_and_gradients_may_have_any_strides(implementation):
    inputs = make(2, 6, 4, 3)
    grad = torch.randn_like(inputs[0])
    views = [x.detach().mT.contiguous().mT.requires_grad_() if x.dim() > 1 else x for x in inputs]
    assert not any(x.is_contiguous() for x in views[:5])
    expected = [value.double() for value in outputs(grad, *inputs, implementation=implementation)]
    assert_close(outputs(grad.mT.contiguous().mT, *views, implementation=implementation), expected, 1e-5)
    expanded = outputs(
        torch.ones((), device=DEVICE).expand_as(grad), *inputs, implementation=implementation
    )  # like the gradient of a sum
    assert_close(expanded, loop(torch.ones_like(grad), *inputs), 1e-5)


@pytest.mark.parametrize('implementation', ['chunked', 'triton'])
def test_empty_batches_and_meta_tensors_work(implementation):
    inputs = make(0, 6, 3, 2)
    selective_scan(*inputs, implementation=implementation).sum().backward()
    assert all(x.grad.shape == x.shape and x.grad.abs().sum() == 0 for x in inputs)
    assert selective_scan(*(x.to('meta') for x in make(2, 6, 3, 2)), implementation=implementation).shape == (2, 6, 3)


def test_the_number_of_chunks_and_their_length_are_about_the_square_root_of_the_sequences():
    for length in range(1, 2000):
        chunks, steps = module.chunks_and_steps(length)
        assert (chunks - 1) * steps < length <= chunks * steps
        assert max(chunks, steps) <= math.isqrt(length - 1) + 1


@pytest.mark.parametrize('implementation', ['chunked', 'triton'])
def test_only_inputs_and_one_state_per_chunk_are_saved(implementation):
    inputs = make(1, 20, 4, 16)
    saved = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = selective_scan(*inputs, implementation=implementation)
    assert sum(saved.values()) == sum(x.numel() for x in inputs) + 4 * 16 * 4 and y.requires_grad
    saved.clear()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        selective_scan(*(x.detach() for x in inputs), implementation=implementation)
    assert not saved


@pytest.mark.parametrize('implementation', ['chunked', 'triton'])
@pytest.mark.parametrize('dtype', [torch.float, torch.bfloat16])
def test_opcheck_accepts_the_operator(implementation, dtype):
    """The schema, the gradient and the fake kernels are right, so torch.compile can rely on them."""
    inputs = [x if x.dim() < 3 else x.detach().to(dtype).requires_grad_() for x in make(2, 3, 4, 2)]
    tests = ('test_schema', 'test_autograd_registration', 'test_faketensor')
    for save in (True, False):
        torch.library.opcheck(module.scan, (*inputs, implementation == 'triton', save), test_utils=tests)
    torch.library.opcheck(
        module.scan, (*inputs, implementation == 'triton', True), test_utils='test_aot_dispatch_dynamic'
    )
    y, states = module.scan(*inputs, implementation == 'triton', True)
    views = [x.mT.contiguous().mT if x.dim() > 1 else x for x in inputs]
    arguments = torch.ones_like(y), states, *views, implementation == 'triton'
    with FakeTensorMode(allow_non_fake_inputs=True):
        fakes = module.scan_backward(*arguments)
    for real, fake in zip(module.scan_backward(*arguments), fakes, strict=True):
        assert (real.shape, real.dtype, real.is_contiguous()) == (fake.shape, fake.dtype, fake.is_contiguous())


def test_opcheck_accepts_the_operator_for_several_scan_orders():
    each = [make(1, 4, 3, 1) for _ in range(2)]
    inputs = [torch.stack(tensors).detach().requires_grad_() for tensors in zip(*each, strict=True)]
    tests = 'test_schema', 'test_autograd_registration', 'test_faketensor'
    torch.library.opcheck(module.scan, (*inputs, True, True, 2, 0b1101), test_utils=tests)


def test_one_compiled_program_takes_sequences_of_all_lengths():
    compiled = torch.compile(selective_scan, fullgraph=True, dynamic=True, backend='aot_eager')
    torch._dynamo.utils.counters.clear()
    for length in (30, 5, 17):
        inputs = make(2, length, 3, 2)
        y = compiled(*inputs)
        y.sum().backward()
        assert torch.equal(y, selective_scan(*inputs)) and inputs[2].grad.abs().min() > 0
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] == 1


class Scan(nn.Module):
    def forward(self, *inputs: Tensor) -> Tensor:
        return selective_scan(*inputs)


def test_operations_are_counted_by_vmambas_formula():
    inputs, expected = make(2, 6, 5, 3), 9 * 2 * 6 * 5 * 3 + 2 * 6 * 5
    with FlopCounterMode(display=False) as counter:
        selective_scan(*inputs)
    assert counter.get_total_flops() == expected
    analyzer = FlopAnalyzer(Scan(), tuple(inputs))
    analyzer.set_op_handle('mambaout::selective_scan', lambda i, _: module.operations(get_shape(i[0]), get_shape(i[2])))
    assert analyzer.total() == expected


def read_map(order: Lines, cells: Tensor, height: int, width: int) -> Tensor:
    """Read cells ``(batch, L, C)`` as a sequence."""
    return order.read(cells.unflatten(1, (height, width)))


def restore_map(order: Lines, sequence: Tensor, height: int, width: int) -> Tensor:
    """Restore cells ``(batch, L, C)`` from a sequence."""
    return order.restore(sequence, height, width).flatten(1, 2)


@pytest.mark.parametrize('batch, height, width', [(2, 3, 4), (1, 1, 3), (1, 3, 1), (1, 1, 1)])
def test_rows_and_columns_are_scanned_in_the_map_itself_in_all_orders_at_once(batch, height, width):
    """The oracle reads sequences, scans them with a loop, and restores maps."""
    names = 'columns_reversed', 'rows', 'columns', 'rows_reversed'
    orders, channels, states = [ORDERS[name] for name in names], 2, 2
    torch.manual_seed(0)
    each = [make(batch, height * width, channels, states) for _ in orders]
    u = each[0][0]
    # delta, B and C lie next to each other, as in the output of one linear layer
    joined = torch.stack([torch.cat((x[1] + k, x[3] - k, x[4]), -1) for k, x in enumerate(each)], 2).detach()
    delta, B, C = (x.requires_grad_() for x in joined.permute(2, 0, 1, 3).split((channels, states, states), -1))
    A, D, bias = (torch.stack([x[i] * (1 + k) for k, x in enumerate(each)]).detach() for i in (2, 5, 6))
    inputs = u, delta, A.requires_grad_(), B, C, D.requires_grad_(), bias.requires_grad_()
    y = scan_lines(*inputs, width, orders)
    grad = torch.randn(batch, height * width, channels, device=DEVICE)
    ours = [y, *torch.autograd.grad(y.sum(0), inputs, grad)]

    expected = [[] for _ in ours]
    for k, order in enumerate(orders):
        maps = [read_map(order, x, height, width) for x in (grad, u, delta[k], B[k], C[k])]
        found = loop(*maps[:3], A[k], *maps[3:], D[k], bias[k])
        for i, value in enumerate(found):
            by_cell = i in (0, 1, 2, 4, 5)  # output, u, delta, B and C
            expected[i].append(restore_map(order, value, height, width) if by_cell else value)
    expected = [torch.stack(values) for values in expected]
    expected[1] = expected[1].sum(0)  # u is the same for all orders
    assert_close(ours, expected, 1e-5)
    if min(height, width) > 1:
        assert all((y[0] - other).abs().max() > 0.01 for other in y[1:])


# The compiled code of the kernels for the largest maps of both families of VMamba. Other sizes give the same code.
COMPILED = """
import json
from benchmarks.compiled import recorded
from benchmarks.scan_launches import launches

for capability, sizes in ((90, ('192x16', '96x1')), (80, ('192x16',))):
    for name, launch in launches():
        size = name.split()[1].rstrip(',')
        if size in sizes:
            with recorded(capability) as kernels:
                launch()
            for kernel in kernels:
                print(json.dumps([
                    size,
                    kernel.name,
                    kernel.spilled,
                    kernel.count(depth=1),
                    kernel.count('BAR', 'LDS', 'STS', 'LDSM', 'STSM', depth=1),
                    kernel.count('SHFL', depth=1),
                ]))
"""
# The most instructions, and the most exchanges between threads, of a position in the loop over a chunk. Triton 3.6 lets
# states pass through shared memory, and for an A100 it spills 64 bytes.
TRITON = '3.7.1'
MOST = {
    ('192x16', '_scan_kernel'): (195, 0),
    ('192x16', '_rewalk_kernel'): (230, 0),
    ('192x16', '_adjoint_kernel'): (550, 31),
    ('96x1', '_scan_kernel'): (92, 0),
    ('96x1', '_rewalk_kernel'): (102, 1),
    ('96x1', '_adjoint_kernel'): (225, 10),
}


@pytest.mark.skipif(triton.__version__ != TRITON, reason=f'the bounds are those of Triton {TRITON}')
def test_compiled_kernels_spill_no_register_and_stay_inside_a_warp_in_their_loops_over_positions():
    """The carry kernel, whose threads do work together, shows that the counts see barriers and exchanges."""
    environment = {name: value for name, value in os.environ.items() if name != 'TRITON_INTERPRET'}
    done = subprocess.run([sys.executable, '-c', COMPILED], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(size, name) for size, name, *_ in rows} >= set(MOST) and len(rows) == 21
    for size, name, spilled, instructions, barriers, exchanges in rows:
        assert spilled == 0, (size, name)
        if (size, name) in MOST:
            most_instructions, most_exchanges = MOST[size, name]
            assert barriers == 0, (size, name)
            assert instructions <= GROUP * most_instructions, (size, name)
            assert exchanges <= GROUP * most_exchanges, (size, name)
        elif name == '_carry_kernel':
            assert barriers > 0 and exchanges > 0


def test_implementations_that_are_unknown_or_need_another_device_are_refused(monkeypatch):
    inputs = make(1, 4, 2, 1)
    with pytest.raises(
        UserError, match=r"selective_scan='chunk' is unknown \(did you mean 'chunked'\?\); known: auto, reference"
    ):
        selective_scan(*inputs, implementation='chunk')
    monkeypatch.delenv('TRITON_INTERPRET', raising=False)
    with pytest.raises(
        UserError, match="selective_scan='triton' needs CUDA, and the input is on cpu; selective_scan='auto'"
    ):
        selective_scan(*(x.cpu() for x in inputs), implementation='triton')
