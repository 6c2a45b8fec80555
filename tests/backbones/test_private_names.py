"""The private names that ``backbones/private_names.py`` lists still exist and have the same meaning."""

import torch
from torch import nn

from backbones.private_names import STATE_DICT_VERSIONS
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
