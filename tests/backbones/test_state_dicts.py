"""Weights are found in a checkpoint, and get the names of the model back, whatever wrapped the model."""

import pytest
import torch
from timm.utils import ModelEmaV2
from torch import nn

from backbones.private_names import STATE_DICT_VERSIONS
from backbones.state_dicts import unwrapped, weights_of


class Model(nn.Module):
    """A backbone and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
        self.head = nn.Linear(2, 2)


class Wrapper(nn.Module):
    """A wrapper such as Lightning's, with the model as an attribute."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model


def compiled_backbone(model: Model) -> nn.Module:
    model.backbone = torch.compile(model.backbone)
    return model


WRAPPERS = {
    'none': lambda model: model,
    'data parallel': nn.DataParallel,
    'compiled': torch.compile,
    'compiled backbone': compiled_backbone,
    'an averaged model in data parallel': lambda model: nn.DataParallel(ModelEmaV2(model)),
    'compiled in data parallel': lambda model: nn.DataParallel(torch.compile(model)),
    'an attribute': Wrapper,
    'an attribute in data parallel': lambda model: nn.DataParallel(Wrapper(model)),
}


@pytest.mark.parametrize('kind', WRAPPERS)
def test_the_names_in_a_wrapped_model_become_those_of_the_model(kind):
    expected = Model().state_dict()
    state = unwrapped(WRAPPERS[kind](Model()).state_dict(), expected)
    assert list(state) == list(expected)
    # without the versions of the modules, a batch norm would take the weights for old ones
    assert getattr(state, STATE_DICT_VERSIONS)['backbone.1'] == getattr(expected, STATE_DICT_VERSIONS)['backbone.1']
    Model().load_state_dict(state)


def test_a_first_part_that_the_model_has_too_or_that_not_all_names_have_stays():
    state = {'head.weight': 1, 'head.bias': 2}
    assert list(unwrapped(state, ['head.fc.weight'])) == list(state)
    assert list(unwrapped(state)) == list(state)
    state = {'model.head.weight': 1, 'loss.weight': 2}
    assert list(unwrapped(state, ['head.weight'])) == list(state)


@pytest.mark.parametrize('key', ['state_dict', 'model', 'model_state_dict', 'state_dict_ema'])
def test_the_weights_below_any_usual_key_are_found(key):
    assert weights_of({key: {'a': 1}, 'epoch': 3}) == {'a': 1}
    assert weights_of({key: 'tiny', 'a': 1}) == {key: 'tiny', 'a': 1}


def test_the_weights_below_state_dict_come_before_averaged_ones():
    assert weights_of(dict(state_dict_ema={'a': 2}, state_dict={'a': 1})) == {'a': 1}
