"""Steps by gradients that are not finite are skipped and counted, and the loss scale finds its value, on a CPU, too."""

import pytest
import torch
from mmengine.optim import OptimWrapperDict
from mmengine.registry import OPTIM_WRAPPERS
from torch import nn

from backbones import UserError
from mmengine_plugin.compat.private_names import accumulated_steps
from mmengine_plugin.engine.optimizer_wrappers import (
    FiniteAmpOptimWrapper,
    FiniteOptimWrapper,
    NotFiniteError,
    NotFiniteLossError,
)

INF = float('inf')


def wrapper(**settings) -> FiniteAmpOptimWrapper:
    """A wrapper of one weight, which is 1, with learning rate 0.1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    settings = dict(type='FiniteAmpOptimWrapper', optimizer=optimizer) | settings
    return OPTIM_WRAPPERS.build(settings)


def step(made: FiniteOptimWrapper, gradient: float) -> float:
    """Take a step by a gradient; return the weight."""
    (weight,) = made.optimizer.param_groups[0]['params']
    made.update_params((weight * gradient).sum())
    return weight.item()


def test_a_step_that_overflows_is_skipped_and_lowers_the_scale():
    made = wrapper(loss_scale=dict(init_scale=4.0))
    assert step(made, INF) == 1 and made.bad_steps == 1
    assert made.loss_scaler.get_scale() == 2
    assert step(made, INF) == 1 and made.bad_steps == 2
    assert step(made, 1.0) == pytest.approx(0.9) and made.bad_steps == 0
    assert made.loss_scaler.get_scale() == 1


def test_a_gradient_that_overflows_by_the_scale_alone_is_skipped():
    made = wrapper(loss_scale=dict(init_scale=2.0**127))
    assert step(made, 4.0) == 1 and made.bad_steps == 1
    assert step(made, 4.0) == 1 and made.bad_steps == 2
    assert step(made, 4.0) == pytest.approx(0.6) and made.bad_steps == 0  # the scale is 2^125 now


def test_the_scale_grows_after_good_steps():
    made = wrapper(loss_scale=dict(init_scale=4.0, growth_interval=2))
    step(made, 1.0)
    assert made.loss_scaler.get_scale() == 4
    step(made, 1.0)
    assert made.loss_scaler.get_scale() == 8


def test_a_fixed_scale_remains():
    made = wrapper(loss_scale=512)
    for gradient in (1.0, INF, 1.0):
        step(made, gradient)
        assert made.loss_scaler.get_scale() == 512


def test_too_many_skipped_steps_are_an_error():
    made = wrapper(max_bad_steps=2)
    step(made, INF)
    step(made, float('nan'))
    with pytest.raises(NotFiniteError) as error:
        step(made, INF)
    assert error.value.max_bad_steps == 2


@pytest.mark.parametrize('settings', [dict(type='FiniteOptimWrapper'), dict(max_bad_steps=0), dict(dtype='bfloat16')])
def test_a_loss_that_is_not_finite_with_finite_gradients_is_an_error(settings):
    """The mean over no pixels, as in Lovász' loss of an image without labels: its gradient is 0."""
    made = wrapper(**settings)
    (weight,) = made.optimizer.param_groups[0]['params']
    loss = weight[weight > 5].mean()
    assert loss.isnan() and torch.autograd.grad(loss, weight, retain_graph=True)[0] == 0
    with pytest.raises(NotFiniteLossError):
        made.update_params(loss)
    assert weight == 1


@pytest.mark.parametrize('settings', [dict(type='FiniteOptimWrapper'), dict(loss_scale=4.0)])
def test_as_many_losses_in_a_row_as_allowed_may_be_not_finite_and_their_steps_are_taken(settings):
    made = wrapper(max_bad_steps=2, **settings)
    (weight,) = made.optimizer.param_groups[0]['params']

    def bad_step() -> float:
        made.update_params(weight.sum() + weight[weight > 5].mean())
        return weight.item()

    assert bad_step() == pytest.approx(0.9) and bad_step() == pytest.approx(0.8) and made.bad_losses == 2
    assert step(made, 1.0) == pytest.approx(0.7) and made.bad_losses == 0
    assert bad_step() == pytest.approx(0.6) and bad_step() == pytest.approx(0.5)
    with pytest.raises(NotFiniteLossError):
        bad_step()
    assert weight.item() == pytest.approx(0.5)


def test_a_loss_that_is_not_finite_is_found_among_those_that_are_accumulated():
    made = wrapper(type='FiniteOptimWrapper', accumulative_counts=2)
    (weight,) = made.optimizer.param_groups[0]['params']
    made.update_params(weight[weight > 5].mean())
    with pytest.raises(NotFiniteLossError):
        step(made, 1.0)


@pytest.mark.parametrize(
    ('settings', 'allowed'),
    [
        (dict(), 50),
        (dict(dtype='bfloat16'), 0),
        (dict(loss_scale=dict(enabled=False)), 0),
        (dict(type='FiniteOptimWrapper'), 0),
        (dict(dtype='bfloat16', max_bad_steps=7), 7),
    ],
)
def test_only_a_loss_scale_may_skip_steps_by_default(settings, allowed):
    assert wrapper(**settings).max_bad_steps == allowed


@pytest.mark.parametrize(('dtype', 'expected'), [('float16', torch.float16), ('bfloat16', torch.bfloat16)])
def test_the_forward_pass_runs_in_the_dtype(dtype, expected):
    layer = nn.Linear(2, 2)
    with wrapper(dtype=dtype).optim_context(layer):
        assert layer(torch.ones(1, 2)).dtype == expected
    assert layer(torch.ones(1, 2)).dtype == torch.float32


def test_clipping_sees_gradients_without_the_scale():
    made = wrapper(loss_scale=dict(init_scale=1024.0), clip_grad=dict(max_norm=1.0))
    assert step(made, 0.5) == pytest.approx(0.95)  # below the norm, it is not clipped
    assert step(made, 100.0) == pytest.approx(0.85)


def test_gradients_are_accumulated_with_the_scale():
    made = wrapper(loss_scale=dict(init_scale=1024.0), accumulative_counts=2)
    assert step(made, 1.0) == 1
    assert step(made, 3.0) == pytest.approx(0.8)


def test_the_state_holds_the_scale():
    made, other = wrapper(loss_scale=dict(init_scale=4.0)), wrapper()
    step(made, INF)
    other.load_state_dict(made.state_dict())
    assert other.loss_scaler.get_scale() == 2


def test_an_unknown_dtype_is_refused():
    with pytest.raises(UserError, match=r"optim_wrapper.dtype='float61' must be one of float16, bfloat16"):
        wrapper(dtype='float61')


def test_several_optimizers_are_between_updates_when_all_are():
    wrappers = {name: wrapper(accumulative_counts=n) for name, n in (('one', 2), ('other', 3))}
    assert accumulated_steps(OptimWrapperDict(**wrappers)) == 6
    assert accumulated_steps(wrappers['other']) == 3
