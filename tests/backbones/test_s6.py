"""S6 equals its definition, computed cell by cell."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from backbones import UserError
from backbones.s6 import S6, CausalConvS6, MapS6
from backbones.vmamba import ORDERS as VMAMBAS_ORDERS

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


def s6_by_hand(x: Tensor, x_proj: Tensor, dt_proj: Tensor, dt_bias: Tensor, a_log: Tensor, skip: Tensor) -> Tensor:
    """Apply the definition to a sequence ``(L, D)``: ``h = exp(step A) h + step B u``, ``y = C h + D u``."""
    channels, state = a_log.shape
    h, out = x.new_zeros(channels, state), []
    for u in x:
        low, b, c = (x_proj @ u).split((dt_proj.shape[1], state, state))
        step = F.softplus(dt_proj @ low + dt_bias)
        h = torch.exp(step[:, None] * -a_log.exp()) * h + (step * u)[:, None] * b
        out.append(h @ c + skip * u)
    return torch.stack(out)


def by_hand(module: S6, x: Tensor) -> Tensor:
    """:func:`s6_by_hand` with a module's weights."""
    weights = module.x_proj.weight, module.dt_proj.weight, module.dt_proj.bias, module.A_log, module.D
    return s6_by_hand(x, *(p.detach() for p in weights))


@pytest.mark.parametrize(('state', 'rank'), [(16, None), (1, 3)])
def test_s6_equals_its_recurrence(state, rank):
    torch.manual_seed(0)
    module, x = S6(20, state, rank).double(), torch.randn(2, 33, 20).double()
    torch.nn.init.uniform_(module.D, -1, 1)
    torch.nn.init.uniform_(module.dt_proj.bias, -3, 1)
    y = module(x)
    assert module.dt_proj.weight.shape == (20, rank or 2)
    for one, sequence in zip(y, x, strict=True):
        torch.testing.assert_close(one, by_hand(module, sequence))
    y.square().sum().backward()
    assert all(p.grad.any() for p in module.parameters())


def test_a_causal_convolution_and_silu_come_before_the_recurrence():
    torch.manual_seed(0)
    module, x = CausalConvS6(6, 2).double(), torch.randn(2, 9, 6).double()
    conv, expected = module.conv, []
    for sequence in x:
        padded = torch.cat((torch.zeros(3, 6).double(), sequence))
        steps = [(padded[t : t + 4].T * conv.weight[:, 0]).sum(1) + conv.bias for t in range(9)]
        expected.append(by_hand(module, F.silu(torch.stack(steps))))
    torch.testing.assert_close(module(x), torch.stack(expected))


def test_a_position_sees_earlier_positions_only():
    torch.manual_seed(0)
    module, x = CausalConvS6(6, 2), torch.randn(1, 9, 6)
    other = x.clone()
    other[:, 4] += 1
    assert (module(x) != module(other)).any(-1).flatten().tolist() == [False] * 4 + [True] * 5


def test_weights_are_initialised_as_in_mamba():
    torch.manual_seed(0)
    module = S6(1000, 16)
    steps = F.softplus(module.dt_proj.bias)
    assert 1e-3 <= steps.min() < 1.1e-3 and 0.09 < steps.max() <= 0.1
    assert steps.log().mean().item() == pytest.approx(math.log(1e-2), abs=0.1)  # log-uniform
    assert torch.equal(module.D, torch.ones(1000))
    torch.testing.assert_close(module.A_log.exp(), torch.arange(1.0, 17).expand(1000, 16))
    assert 0.99 / 63**0.5 < module.dt_proj.weight.abs().max() <= 1 / 63**0.5


def test_the_outputs_of_all_scan_orders_are_summed():
    torch.manual_seed(0)
    module, x = MapS6(6, ('rows', 'columns_reversed'), state=2).double(), torch.randn(1, 3, 5, 6).double()
    rows = by_hand(module[0], x[0].reshape(15, 6)).view(3, 5, 6)
    columns = by_hand(module[1], x[0].transpose(0, 1).reshape(15, 6).flip(0)).flip(0).view(5, 3, 6).transpose(0, 1)
    torch.testing.assert_close(module(x)[0], rows + columns)
    with pytest.raises(UserError, match="unknown scan order 'cols'"):
        MapS6(6, ('rows', 'cols'))


def test_the_outputs_of_scan_orders_are_given_one_by_one():
    module, x = MapS6(6, ('rows', 'windows2'), state=2), torch.randn(1, 3, 5, 6)
    rows, windows = module.scans(x)
    torch.testing.assert_close(module(x), rows + windows)
    torch.testing.assert_close(rows, module[0](x.flatten(1, 2)).view(x.shape))
    assert not torch.allclose(rows, windows)


def results(module: MapS6, x: Tensor) -> dict[str, Tensor]:
    """The output, the gradient of the input, and those of all parameters by name."""
    x = x.detach().requires_grad_()
    y = module(x)
    grads = torch.autograd.grad(y.square().sum(), [x, *module.parameters()])
    names = 'output', 'input', *(name for name, _ in module.named_parameters())
    return dict(zip(names, (y, *grads), strict=True))


@pytest.mark.parametrize('orders', [VMAMBAS_ORDERS, ('columns', 'windows2_reversed')], ids=['in place', 'copied'])
@pytest.mark.parametrize('state', [1, 16])
def test_triton_gives_the_same_output_and_gradients(orders, state):
    """Rows and columns are scanned in the map, all at once; windows are copied."""
    torch.manual_seed(0)
    module, x = MapS6(5, orders, state).to(DEVICE), torch.randn(1, 2, 4, 5, device=DEVICE)
    for parameter in module.parameters():
        torch.nn.init.uniform_(parameter, -1, 1)
    found = {}
    for implementation in ('reference', 'triton'):
        for s6 in module:
            s6.implementation = implementation
        found[implementation] = results(module, x)
    for name, expected in found['reference'].items():
        difference = (found['triton'][name] - expected).norm() / expected.norm()
        assert difference < 1e-5 and expected.any(), name


def test_parameters_have_the_names_of_separate_s6():
    module = MapS6(6, ('rows', 'columns'), state=2)
    names = 'A_log', 'D', 'x_proj.weight', 'dt_proj.weight', 'dt_proj.bias'
    assert list(module.state_dict()) == [f'{i}.{name}' for i in range(2) for name in names]
    assert module.state_dict()['1.x_proj.weight'].shape == (1 + 2 + 2, 6)


@pytest.mark.parametrize('implementation', ['chunked', 'triton'])
def test_an_empty_batch_gives_zero_gradients(implementation):
    """Drop path computes a branch without samples where no sample keeps it."""
    module = MapS6(4, ('rows', 'columns_reversed'), 2, implementation=implementation).to(DEVICE)
    y = module(torch.randn(0, 3, 2, 4, device=DEVICE))
    y.sum().backward()
    assert y.shape == (0, 3, 2, 4)
    assert all(parameter.grad.eq(0).all() for parameter in module.parameters())


def test_more_orders_than_one_launch_takes_are_scanned_one_by_one():
    torch.manual_seed(0)
    orders = [f'{name}{direction}' for name in ('rows', 'columns') for direction in ('', '_reversed')] * 8
    module, x = MapS6(3, orders, 1, implementation='triton').to(DEVICE), torch.randn(1, 2, 2, 3, device=DEVICE)
    y = module(x)
    for s6 in module:
        s6.implementation = 'reference'
    torch.testing.assert_close(y, module(x))
