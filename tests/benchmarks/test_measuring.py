"""What the figures of the benchmark mean: bytes by closed form, host times, and candidates that compute the same."""

import time
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from backbones.errors import UserError
from backbones.ops.selective_scan import selective_scan
from benchmarks import compiled_kernels, kernels, report, scan
from benchmarks.candidates import drop_path_candidates
from benchmarks.compiled import Compiled
from benchmarks.host_times import host_times, timed
from mmengine_plugin.memory import bytes_kept_for_backward


def test_what_a_forward_pass_keeps_is_counted_once_and_freed():
    """A square root keeps its own output, a product both factors; the weight is the model's."""
    model = nn.Linear(256, 256, bias=False)
    x, outputs = torch.ones(64, 256), []

    def forward():
        output = model(x).exp().sqrt()
        outputs.append(weakref.ref(output))
        return output * output

    kept = bytes_kept_for_backward(forward, model)
    assert kept == 3 * 4 * 64 * 256  # the input, the exponentials, and the roots
    assert outputs[0]() is None


def test_a_kernel_must_move_each_value_once():
    size = kernels.sizes('tiny')[0]
    assert (size.height, size.width, size.hidden, size.convolved) == (200, 320, 256, 96)
    cells = 2 * 200 * 320
    # bytes: g and i of 256 + 160 channels, c of 96, the product of 256; backward, the gradients of all of them too
    assert size.least_bytes('gate forward') == 2 * cells * (256 + 160 + 96 + 256)
    assert size.least_bytes('gate backward') == 2 * size.least_bytes('gate forward')
    for what in ('convolution, input gradient', 'convolution, weight gradient'):
        assert size.least_bytes(what) == 2 * cells * 2 * 96


def test_the_kernels_are_measured_at_the_padded_sizes_of_all_stages():
    found = [(size.height, size.width, size.hidden, size.convolved) for size in kernels.sizes('base')]
    assert found == [(200, 320, 344, 128), (100, 160, 688, 256), (50, 80, 1368, 512), (25, 40, 2048, 768)]


def test_both_candidates_of_each_kernel_compute_the_same():
    torch.manual_seed(0)
    inputs = kernels.random_inputs(kernels.Size(6, 9, hidden=24, convolved=8, images=1), 'cpu', torch.float)
    grad = inputs.grad.clone()
    operations = kernels.operations(inputs, lambda function: function)

    def compare(what, ours):
        others = operations[what][kernels.OTHERS]
        inputs.grad.copy_(grad)
        expected = others() if isinstance(others(), tuple) else (others(),)
        found = ours(operations[what][kernels.OURS]())
        for a, b in zip(found, [tensor for tensor in expected if tensor is not None], strict=True):
            torch.testing.assert_close(a.reshape(b.shape), b, rtol=1e-4, atol=1e-4)

    compare('gate forward', lambda product: [product])
    # ours leaves the columns of c to the convolution, and writes the product over its gradient
    compare('gate backward', lambda grads: [grads[0][:, :-8], grads[1], inputs.grad])
    compare('convolution, input gradient', lambda _: [inputs.grad_h[:, -8:].view(1, 6, 9, 8).permute(0, 3, 1, 2)])
    compare('convolution, weight gradient', lambda grads: grads)


def test_mamba_ssm_gets_the_positions_last():
    u, delta, A, B, C, D, bias = scan.random_inputs(length=12, channels=6, states=2)
    layout = scan.mamba_ssm_layout(u, delta, A, B, C, D, bias)
    assert [tuple(tensor.shape) for tensor in layout] == [
        (1, 6, 12),
        (1, 6, 12),
        (6, 2),
        (1, 2, 12),
        (1, 2, 12),
        (6,),
        (6,),
    ]
    assert all(tensor.is_contiguous() and tensor.is_leaf and tensor.requires_grad for tensor in layout)
    u_last, delta_last, A, B_last, C_last, D, bias = layout
    back = [tensor.transpose(1, 2) for tensor in (u_last, delta_last, B_last, C_last)]
    torch.testing.assert_close(
        selective_scan(back[0], back[1], A, back[2], back[3], D, bias), selective_scan(u, delta, A, B, C, D, bias)
    )


def test_a_function_is_timed_with_all_that_it_calls_and_restored():
    def inner():
        time.sleep(0.02)

    owner = SimpleNamespace(inner=inner, outer=lambda: (owner.inner(), owner.inner()), unused=time.sleep)
    outer = owner.outer
    functions = {'outer': (owner, 'outer'), 'outer: inner': (owner, 'inner'), 'unused': (owner, 'unused')}
    with timed(functions) as seconds:
        owner.outer()
    assert 0.04 <= seconds['outer: inner'] <= seconds['outer'] < 0.2 and seconds['unused'] == 0
    assert (owner.inner, owner.outer) == (inner, outer)
    per_step = host_times(lambda: owner.outer(), functions, steps=2)
    assert list(per_step) == ['whole step', *functions] and 0.04 <= per_step['outer'] <= per_step['whole step'] < 0.2


def test_a_function_that_fails_is_timed_and_restored():
    owner = SimpleNamespace(fail=lambda: time.sleep(0.01) or 1 / 0)
    fail = owner.fail
    with pytest.raises(ZeroDivisionError), timed({'fail': (owner, 'fail')}) as seconds:
        owner.fail()
    assert seconds['fail'] >= 0.01 and owner.fail is fail


@pytest.mark.parametrize(('arch', 'rate'), [('tiny', 0.2), ('small', 0.4), ('base', 0.6)])
def test_both_candidates_have_the_drop_path_rate_of_the_recipe(arch, rate):
    assert [cfg['drop_path_rate'] for cfg in drop_path_candidates(arch).values()] == [rate] * 2


def test_a_table_has_the_columns_that_its_rows_fill():
    row = dict(suite='backbone tiny', what='step', shape='1x64x64', candidate='timm', ratio=1.0, low=1.0, high=1.0)
    row['seconds'] = [0.1]
    assert 'GPU busy' not in report.tables([row]) and 'host time' not in report.tables([row])
    row |= dict(busy=0.38, host={'whole step': 0.1, 'backbone': 0.025, 'FPN': 0.0005})
    text = report.tables([row])
    assert '| GPU busy |' in text and '| 1.000 to 1.000 | 0.38 |' in text
    assert '| backbone tiny, step | 1x64x64 | timm | backbone | 25.0 | 25% |' in text
    assert 'FPN' not in text  # less than 1 %


def test_a_compiled_kernel_is_described_by_its_instructions():
    names, looped = (
        ('LDG.E.128', 'LDG.E.U16', 'FFMA', 'FFMA', 'BAR.SYNC', 'SHFL', 'MOV', 'BRA'),
        (1, 0, 1, 1, 0, 0, 1, 0),
    )
    kernel = Compiled('gate', 4, registers=64, spilled=8, shared=0, instructions=names, looped=looped)
    row = dict(suite='compiled', GPU='H100', what='tiny', kernel=kernel.name)
    row |= {name: figure(kernel) for name, figure in compiled_kernels.FIGURES.items()}
    assert (row['instructions'], row['in loops'], row['FMA in loops'], row['FMA']) == (8, 4, '50%', '25%')
    assert (row['accesses in loops by bits'], row['accesses by bits']) == ('1 of 128', '1 of 128, 1 of 16')
    assert (row['spilled bytes'], row['barriers'], row['shuffles']) == (8, 1, 1)
    assert report.tables([row]).splitlines()[4].startswith('| H100 | tiny | gate | 4 | 64 | 8 |')


def test_interpreted_kernels_are_not_taken_for_compiled_ones(monkeypatch):
    monkeypatch.setenv('TRITON_INTERPRET', '1')
    with pytest.raises(UserError, match='TRITON_INTERPRET is set'):
        next(compiled_kernels.measure_compiled_kernels())
