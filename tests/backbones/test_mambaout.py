"""MambaOut equals timm's model, and its block with an SSM equals the paper's Mamba block.

Tests for all backbones are in ``test_backbones.py``.
"""

import pytest
import timm
import torch
from torch.nn import functional as F

from backbones import MambaOut, UserError
from backbones.mambaout import ARCHS
from tests.backbones.conftest import backward, distance, noisy
from tests.backbones.test_s6 import by_hand


@pytest.mark.parametrize('arch', ARCHS)
def test_maps_and_gradients_equal_timms(arch):
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


def test_drop_path_rates_equal_timms():
    rates = [
        getattr(block.drop_path, 'drop_prob', 0.0)
        for stage in MambaOut('tiny', drop_path_rate=0.3).stages
        for block in stage.blocks
    ]
    timms = timm.create_model('mambaout_tiny', drop_path_rate=0.3)
    assert rates == [getattr(block.drop_path, 'drop_prob', 0.0) for stage in timms.stages for block in stage.blocks]
    assert rates[0] == 0 and rates[-1] == pytest.approx(0.3)


def test_torch_func_differentiates_the_whole_backbone():
    model = noisy(MambaOut(dict(depths=(1, 1), dims=(8, 16)), out_indices=(0, 1), gated_cnn='eager'))
    image = torch.randn(2, 3, 20, 28)

    def loss(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
        return sum(m.sin().sum() for m in torch.func.functional_call(model, parameters, (image,)))

    gradients = torch.func.grad(loss)(dict(model.named_parameters()))
    loss(dict(model.named_parameters())).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, msg=name)


def test_a_block_with_an_ssm_is_a_mamba_block():
    """SSM(act(conv(z))) replaces conv(z) (paper, Eq. 2 and 3), here with scans in both directions."""
    torch.manual_seed(0)
    model = MambaOut(dict(depths=(1,), dims=(12,)), out_indices=(0,), ssm=['rows', 'rows_reversed'])
    block, x = noisy(model).double().stages[0].blocks[0], torch.randn(1, 3, 5, 12).double()
    g, i, c = block.fc1(block.norm(x)).split((32, 20, 12), dim=-1)
    u = F.gelu(F.conv2d(c.permute(0, 3, 1, 2), block.conv.weight, block.conv.bias, padding=3, groups=12))
    u = u.flatten(2).transpose(1, 2)[0]
    mixed = by_hand(block.s6[0], u) + by_hand(block.s6[1], u.flip(0)).flip(0)
    expected = x + block.fc2(F.gelu(g) * torch.cat((i, mixed.view(1, 3, 5, 12)), dim=-1))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize('ssm', [None, ['rows', 'columns']])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_the_gated_product_is_in_the_dtype_of_autocast(ssm, dtype):
    model = noisy(MambaOut(dict(depths=(1,), dims=(12,)), out_indices=(0,), ssm=ssm, gated_cnn='eager'))
    block, dtypes = model.stages[0].blocks[0], []
    block.fc2.register_forward_pre_hook(lambda module, inputs: dtypes.append(inputs[0].dtype))
    x = torch.randn(1, 3, 5, 12)
    with torch.autocast('cpu', dtype, enabled=dtype is not torch.float32):
        y = block(x)
    assert dtypes == [dtype] and y.dtype is torch.float32
    assert distance(y, block(x)) < 0.02


def test_an_ssm_adds_its_own_parameters_and_changes_no_others():
    states = []
    for ssm in (None, [], ['rows']):
        torch.manual_seed(0)
        states.append(MambaOut(dict(depths=(1, 1), dims=(8, 16)), out_indices=(0, 1), ssm=ssm).state_dict())
    plain, empty, mamba = states
    assert set(plain) == set(empty) == {name for name in mamba if '.s6.' not in name}
    assert all(torch.equal(plain[name], value) for name, value in empty.items())
    assert {name: value.shape for name, value in plain.items()}.items() <= {
        k: v.shape for k, v in mamba.items()
    }.items()
    assert torch.equal(mamba['stages.1.blocks.0.s6.0.D'], torch.ones(16))  # initialised as in Mamba
    assert mamba['stages.1.blocks.0.s6.0.dt_proj.bias'].lt(-2).all()


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(arch='mambaout_tiny'), "did you mean 'tiny'"),
        (dict(arch='huge'), 'known: femto, kobe, tiny'),
        (dict(arch=dict(dims=(8, 8))), "needs 'depths'"),
        (dict(arch=dict(depths=(1,), dims=(8, 8))), 'must be lists of the same length'),
        (dict(arch=dict(depths=(1,), dims=(8,), act='relu')), 'not one of gelu, silu'),
        (dict(arch=dict(depths=(1,), dims=(8,), conv_ratio=3)), 'at most expansion_ratio'),
        (dict(arch=dict(depths=(1,), dims=(8,), kernel_size=4)), 'odd and positive'),
        (dict(ssm='rows'), "ssm='rows' must be a list of scan orders"),
        (dict(ssm=['rows', 'collumns']), "unknown scan order 'collumns' .did you mean 'columns'"),
        (dict(ssm=['rows'], gated_cnn='fused'), "gated_cnn='fused' cannot compute an SSM"),
        (dict(gated_cnn=['auto']), 'is unknown; known: '),
        (dict(selective_scan='chunk'), "selective_scan='chunk' is unknown .did you mean 'chunked'"),
    ],
)
def test_wrong_arguments_are_refused_with_advice(kwargs, message):
    with pytest.raises(UserError, match=message):
        MambaOut(**kwargs)
