"""Published weights load whole, under either naming, or are refused with the name of the key at fault."""

import pytest
import safetensors.torch
import timm
import torch
from mmengine.logging import MMLogger
from torch import nn

from backbones import MambaOut, UserError
from backbones.weights import read_checkpoint


@pytest.fixture(scope='module')
def published() -> dict[str, torch.Tensor]:
    """A femto model's weights in timm's naming, classifier included."""
    torch.manual_seed(0)
    return timm.create_model('mambaout_femto').state_dict()


def authors_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights under the names of the authors' release."""

    def rename(key: str) -> str:
        part, *rest = key.split('.')
        if part == 'stem':
            return '.'.join(['downsample_layers', '0', *rest])
        if part == 'stages':
            stage, kind, *rest = rest
            return '.'.join(['downsample_layers' if kind == 'downsample' else 'stages', stage, *rest])
        rest = '.'.join(rest)
        for timms, authors in (
            ('norm.', 'norm.'),
            ('pre_logits.fc.', 'head.fc1.'),
            ('pre_logits.norm.', 'head.norm.'),
            ('fc.', 'head.fc2.'),
        ):
            if rest.startswith(timms):
                return authors + rest.removeprefix(timms)
        raise AssertionError(key)

    return {rename(k): v for k, v in state.items()}


def load(path) -> MambaOut:
    model = MambaOut('femto', init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    model.init_weights()
    return model.eval()


@pytest.mark.parametrize('naming', ['timm', 'authors', 'ours'])
def test_weights_of_every_naming_give_timms_features(published, tmp_path, naming):
    if naming == 'timm':
        safetensors.torch.save_file(published, path := tmp_path / 'model.safetensors')
    elif naming == 'authors':
        torch.save(authors_names(published), path := tmp_path / 'mambaout_femto.pth')
    else:
        ours = {f'backbone.{k}': v for k, v in published.items() if not k.startswith('head.')}
        ours |= {
            f'backbone.out_norms.{i}.{n}': torch.full((d,), 2.0)
            for i, d in enumerate((48, 96, 192, 288))
            for n in ('weight', 'bias')
        }
        torch.save(dict(state_dict=ours | {'neck.weight': torch.ones(1)}, meta={}), path := tmp_path / 'detector.pth')
    twin = timm.create_model('mambaout_femto', features_only=True).eval()
    twin.load_state_dict(
        {k.replace('stages.', 'stages_', 1): v for k, v in published.items() if not k.startswith('head.')}
    )
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        model = load(path)
        assert model.out_norms['3'].weight.eq(2 if naming == 'ours' else 1).all()
        model.out_norms = nn.ModuleDict({str(i): nn.Identity() for i in range(4)})
        for a, b in zip(model(image), twin(image), strict=True):
            torch.testing.assert_close(a, b.permute(0, 3, 1, 2), rtol=1e-5, atol=1e-5)


def test_the_log_says_what_was_loaded_and_what_was_not(published, tmp_path):
    MMLogger.get_instance('test_weights', log_file=str(tmp_path / 'log'))
    torch.save(published, path := tmp_path / 'model.pth')
    load(path)
    said = (tmp_path / 'log').read_text()
    assert str(path) in said and 'initialised: out_norms.*' in said and 'not used: head.*' in said


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda s: s.pop('stages.2.blocks.5.conv.weight'), 'missing stages.2.blocks.5.conv.weight'),
        (
            lambda s: s.update({'stages.0.blocks.0.fc3.weight': s.pop('stages.0.blocks.0.fc2.weight')}),
            'missing .*fc2.*unexpected .*fc3',
        ),
        (
            lambda s: s.update({'stem.conv1.weight': s['stem.conv1.weight'][:, :1]}),
            r'stem.conv1.weight is \(24, 1, 3, 3\)',
        ),
    ],
)
def test_one_wrong_key_is_refused_by_name(published, tmp_path, change, message):
    state = dict(published)
    change(state)
    torch.save(state, path := tmp_path / 'model.pth')
    with pytest.raises(UserError, match=message):
        load(path)


def test_weights_of_another_size_are_refused(tmp_path):
    torch.save(timm.create_model('mambaout_kobe').state_dict(), path := tmp_path / 'kobe.pth')
    with pytest.raises(UserError, match='unexpected stages.2.blocks.9'):
        load(path)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('part', [0.0, 0.5, 0.99])
def test_a_truncated_file_is_named_as_damaged(published, tmp_path, suffix, part):
    path = tmp_path / f'model{suffix}'
    safetensors.torch.save_file(published, path) if suffix == '.safetensors' else torch.save(published, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(UserError, match=f'{path} .* is damaged, cut off or no checkpoint'):
        read_checkpoint(path)


class Payload:
    """Unpickling it would create a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


def test_code_in_a_checkpoint_is_refused_and_not_run(published, tmp_path):
    torch.save(
        dict(state_dict=published, optimizer=dict(state=Payload(tmp_path / 'ran'))), path := tmp_path / 'evil.pth'
    )
    with pytest.raises(UserError, match='could run code .*open'):
        read_checkpoint(path)
    assert not (tmp_path / 'ran').exists()


def test_weights_that_cannot_be_downloaded_say_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    model = MambaOut('femto', init_cfg=dict(type='Pretrained', checkpoint='hf-hub:timm/mambaout_femto.in1k'))
    with pytest.raises(UserError, match=r'cannot download .*init_cfg.checkpoint=.*init_cfg=None'):
        model.init_weights()
