"""MambaOut against timm's; what it promises as every backbone does is in ``test_backbones.py``."""

import pytest
import timm
import torch

from backbones import MambaOut, UserError
from backbones.mambaout import ARCHS
from tests.backbones.conftest import backward, distance, noisy


@pytest.mark.parametrize('arch', ARCHS)
def test_maps_and_gradients_are_timms(arch):
    ours = noisy(MambaOut(arch, out_norm=False))
    timms = timm.create_model(f'mambaout_{arch}', features_only=True)
    to_timm = {
        name: name.replace('stages.', 'stages_', 1) for name in ours.state_dict()
    }  # how features_only joins names
    timms.load_state_dict({to_timm[name]: value for name, value in ours.state_dict().items()}, strict=True)

    image = torch.randn(1, 3, 333, 500)
    with torch.no_grad():
        for a, b in zip(ours(image), timms(image), strict=True):
            assert distance(a, b.permute(0, 3, 1, 2)) < 1e-5

    image = torch.randn(2, 3, 37, 70)
    backward(ours(image))
    backward([m.permute(0, 3, 1, 2) for m in timms(image)])
    gradients = {name: parameter.grad for name, parameter in timms.named_parameters()}
    for name, parameter in ours.named_parameters():
        assert distance(parameter.grad, gradients[to_timm[name]]) < 1e-4, name


def test_drop_path_grows_from_zero_to_its_rate_as_in_timm():
    rates = [
        getattr(block.drop_path, 'drop_prob', 0.0)
        for stage in MambaOut('tiny', drop_path_rate=0.3).stages
        for block in stage.blocks
    ]
    timms = timm.create_model('mambaout_tiny', drop_path_rate=0.3)
    assert rates == [getattr(block.drop_path, 'drop_prob', 0.0) for stage in timms.stages for block in stage.blocks]
    assert rates[0] == 0 and rates[-1] == pytest.approx(0.3)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(arch='mambaout_tiny'), "did you mean 'tiny'"),
        (dict(arch='huge'), 'known: femto, kobe, tiny'),
        (dict(arch=dict(dims=(8, 8))), "needs 'depths'"),
        (dict(arch=dict(depths=(1,), dims=(8, 8))), 'must name the same stages'),
        (dict(arch=dict(depths=(1,), dims=(8,), act='relu')), 'not one of gelu, silu'),
        (dict(arch=dict(depths=(1,), dims=(8,), conv_ratio=3)), 'at most expansion_ratio'),
        (dict(arch=dict(depths=(1,), dims=(8,), kernel_size=4)), 'odd and positive'),
    ],
)
def test_wrong_arguments_are_answered_with_what_is_right(kwargs, message):
    with pytest.raises(UserError, match=message):
        MambaOut(**kwargs)
