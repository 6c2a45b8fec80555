"""``convert_weights.py`` changes names, never tensors."""

import pytest
import timm
import torch
from safetensors.torch import load_file

from tests.backbones.test_weights import authors_names


@pytest.fixture(scope='module')
def published() -> dict[str, torch.Tensor]:
    """The weights of a femto model under the names of timm."""
    return timm.create_model('mambaout_femto').state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_there_and_back_gives_the_same_tensors_under_the_same_names(tool, published, tmp_path):
    torch.save(authors_names(published), tmp_path / 'mambaout_femto.pth')
    done = tool('convert_weights.py', tmp_path / 'mambaout_femto.pth', tmp_path / 'ours.safetensors')
    assert done.returncode == 0, done.stdout
    assert f'{len(published)} tensors, 7.30 M values, under the names of timm' in done.stdout
    assert same(load_file(tmp_path / 'ours.safetensors'), published)
    timm.create_model('mambaout_femto', checkpoint_path=str(tmp_path / 'ours.safetensors'))  # timm takes it
    done = tool('convert_weights.py', tmp_path / 'ours.safetensors', tmp_path / 'back.safetensors', '--to', 'authors')
    assert done.returncode == 0, done.stdout
    assert same(load_file(tmp_path / 'back.safetensors'), authors_names(published))


def test_the_backbone_of_a_detector_is_taken(tool, published, tmp_path):
    backbone = {k: v for k, v in published.items() if not k.startswith('head.')} | {'out_norms.3.bias': torch.rand(288)}
    state = {f'backbone.{k}': v for k, v in backbone.items()} | {'neck.weight': torch.ones(1)}
    torch.save(dict(state_dict=state, meta={}), tmp_path / 'detector.pth')
    done = tool('convert_weights.py', tmp_path / 'detector.pth', tmp_path / 'new/backbone.safetensors')
    assert done.returncode == 0 and 'backbone.* is loaded; not used: neck.*' in done.stdout, done.stdout
    assert same(load_file(tmp_path / 'new/backbone.safetensors'), backbone)


@pytest.mark.parametrize(
    ('state', 'destination', 'message'),
    [
        (
            {'layer1.0.conv1.weight': torch.ones(1)},
            'out.safetensors',
            'layer1.0.conv1.weight, which is not a parameter',
        ),
        ({'stem.conv1.weight': torch.ones(1)}, 'out.pth', 'must end with .safetensors'),
        ({'stem.conv1.weight': torch.ones(1)}, 'source.pth/out.safetensors', 'cannot write'),
        ({'epoch': 3}, 'out.safetensors', 'holds no named weights'),
    ],
)
def test_weights_that_cannot_be_converted_are_refused_and_leave_no_file(tool, tmp_path, state, destination, message):
    torch.save(state, tmp_path / 'source.pth')
    done = tool('convert_weights.py', tmp_path / 'source.pth', tmp_path / destination)
    assert done.returncode == 1 and message in done.stdout and 'Traceback' not in done.stdout, done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ['source.pth']
