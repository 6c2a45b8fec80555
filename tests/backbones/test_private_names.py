"""The private names that ``backbones/private_names.py`` lists still exist and have the same meaning."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from backbones.private_names import LINEAR_AND_ACT, STATE_DICT_VERSIONS
from backbones.safe_checkpoint import read_checkpoint


def test_torchs_state_dict_has_module_versions_in_its_attribute_metadata(tmp_path):
    model = nn.Sequential(nn.BatchNorm2d(3))
    versions = getattr(model.state_dict(), STATE_DICT_VERSIONS)
    assert versions['0'] == dict(version=2)
    torch.save(model.state_dict(), path := tmp_path / 'model.pth')
    assert getattr(read_checkpoint(path), STATE_DICT_VERSIONS) == versions


def test_torch_reads_module_versions_from_that_attribute():
    model, loaded = nn.Linear(1, 1), []
    model.register_load_state_dict_pre_hook(lambda module, state, prefix, metadata, *_: loaded.append(metadata))
    state = model.state_dict()
    setattr(state, STATE_DICT_VERSIONS, {'': dict(version=7)})
    model.load_state_dict(state)
    assert loaded == [dict(version=7)]


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason='no oneDNN')
@pytest.mark.parametrize(
    ('act', 'arguments'), [(F.gelu, ('gelu', [], 'none')), (F.silu, ('swish', [], '')), (None, ('none', [], ''))]
)
def test_torchs_operator_of_a_linear_layer_and_an_activation_computes_both(act, arguments):
    x, weight, bias = torch.randn(3, 8), torch.randn(5, 8), torch.randn(5)
    plain = F.linear(x, weight, bias)
    expected = act(plain) if act else plain
    torch.testing.assert_close(getattr(torch.ops.mkldnn, LINEAR_AND_ACT)(x, weight, bias, *arguments), expected)
    assert (act is None) == torch.equal(expected, plain)
