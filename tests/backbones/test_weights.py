"""Published weights load completely under either naming, or are refused with the name of the wrong key."""

import hashlib
import multiprocessing
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import safetensors.torch
import timm
import torch
from mmengine.logging import MMLogger
from torch import nn

import backbones
from backbones import MambaOut, UserError
from backbones.mambaout import ARCHS, our_names
from backbones.mambaout import authors_names as names_of_the_authors
from backbones.safe_checkpoint import read_checkpoint
from backbones.weights import SHA256, fetch, load_pretrained
from mmengine_plugin.inference.weights import load_weights
from tests.conftest import TIME_LIMIT
from timm_plugin.classifier import ImageClassifier


@pytest.fixture(scope='module')
def published() -> dict[str, torch.Tensor]:
    """Weights of the size femto with timm's names, including the classifier."""
    torch.manual_seed(0)
    return timm.create_model('mambaout_femto').state_dict()


def authors_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights under the names of the authors' release."""

    def authors_name(key: str) -> str:
        first, *rest = key.split('.')
        if first == 'stem':
            return '.'.join(['downsample_layers', '0', *rest])
        if first == 'stages':
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

    return {authors_name(k): v for k, v in state.items()}


def load(path) -> MambaOut:
    model = MambaOut('femto', init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    model.init_weights()
    return model.eval()


def assert_features_and_logits_are_timms(twin: nn.Module, arch: str, checkpoint: str) -> None:
    """Check that a backbone and a classifier with the weights of ``checkpoint`` give the results of ``twin``."""
    init_cfg = dict(type='Pretrained', checkpoint=checkpoint)
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        backbone = MambaOut(arch, out_norm=False, init_cfg=init_cfg)
        backbone.init_weights()
        maps = twin.eval().forward_intermediates(image, intermediates_only=True)
        for ours, timms in zip(backbone.eval()(image), maps, strict=True):
            torch.testing.assert_close(ours, timms, rtol=0, atol=1e-5 * float(timms.abs().max()))
        classifier = ImageClassifier(dict(type='MambaOut', arch=arch), num_classes=twin.num_classes)
        load_weights(classifier, checkpoint)
        logits = twin(image)
        torch.testing.assert_close(classifier.eval()(image), logits, rtol=0, atol=1e-5 * float(logits.abs().max()))


@pytest.mark.parametrize('arch', ARCHS)
def test_weights_with_the_authors_names_give_timms_features_and_logits(arch, tmp_path):
    twin = timm.create_model(f'mambaout_{arch}')
    torch.save(dict(model=authors_names(twin.state_dict())), path := tmp_path / f'mambaout_{arch}.pth')
    assert_features_and_logits_are_timms(twin, arch, str(path))
    path.unlink()


def fill_hub_cache(cache: Path, repository: str, state: dict[str, torch.Tensor], revision: str) -> Path:
    """Put weights where the hub's client puts a download, and return their file."""
    folder = cache / f'models--{repository.replace("/", "--")}'
    for name in ('blobs', 'refs', f'snapshots/{revision}'):
        (folder / name).mkdir(parents=True)
    safetensors.torch.save_file(state, path := folder / 'blobs/new')
    with path.open('rb') as file:
        blob = path.rename(folder / 'blobs' / hashlib.file_digest(file, 'sha256').hexdigest())
    (folder / 'refs/main').write_text(revision)
    (folder / f'snapshots/{revision}/model.safetensors').symlink_to(f'../../blobs/{blob.name}')
    return blob


@pytest.fixture
def hub_cache(tmp_path, monkeypatch) -> Path:
    """An empty cache for the hub's client, which gets no network."""
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    return tmp_path


@pytest.mark.parametrize('tag', timm.list_pretrained('mambaout*'))
def test_every_published_tag_loads_from_the_hubs_cache(tag, hub_cache, monkeypatch):
    monkeypatch.setattr('backbones.weights.SHA256', {})  # the hashes of the real files; these weights are random
    twin = timm.create_model(tag)
    blob = fill_hub_cache(hub_cache, f'timm/{tag}', twin.state_dict(), revision='ab' * 20)
    arch = tag.split('.')[0].removeprefix('mambaout_')
    assert_features_and_logits_are_timms(twin, arch, f'hf-hub:timm/{tag}')
    blob.unlink()


def test_a_revision_is_loaded_by_its_name(published, hub_cache):
    fill_hub_cache(hub_cache, 'someone/mine', published, revision='cd' * 20)
    load(f'hf-hub:someone/mine@{"cd" * 20}')
    with pytest.raises(UserError, match=f'Download model.safetensors of someone/mine@{"ef" * 20}'):
        load(f'hf-hub:someone/mine@{"ef" * 20}')


def test_a_file_from_the_hub_must_match_its_hash(published, hub_cache):
    blob = fill_hub_cache(hub_cache, 'someone/mine', published, revision='cd' * 20)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(
        UserError, match=f'{blob.name} is damaged or not the requested file.* should begin with {blob.name}'
    ):
        load('hf-hub:someone/mine')


def test_weights_with_a_known_hash_must_match_it(published, hub_cache):
    name = next(name for name in SHA256 if '@' in name)
    repository, revision = name.split('@')
    fill_hub_cache(hub_cache, repository, published, revision)
    with pytest.raises(UserError, match=f'should begin with {SHA256[name]}'):
        load(f'hf-hub:{name}')


class CountingHandler(SimpleHTTPRequestHandler):
    """Serves files slowly enough that several downloads overlap, and writes each request into ``requests``."""

    def do_GET(self) -> None:
        with Path(self.directory).with_name('requests').open('a') as file:
            file.write(f'{self.path}\n')
        time.sleep(0.3)
        super().do_GET()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of a server for the folder ``tmp_path/remote``; downloads go to an empty cache."""
    (tmp_path / 'remote').mkdir()
    monkeypatch.setattr('torch.hub.get_dir', lambda: str(tmp_path / 'cache'))
    handler = partial(CountingHandler, directory=tmp_path / 'remote')
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()


def test_a_release_is_downloaded_once(published, server, tmp_path):
    torch.save(dict(model=authors_names(published)), path := tmp_path / 'remote/mambaout_femto.pth')
    for _ in range(2):  # the second time, it is no longer on the server
        assert torch.equal(load(f'{server}/mambaout_femto.pth').stem.conv1.weight, published['stem.conv1.weight'])
        path.unlink(missing_ok=True)
    with pytest.raises(
        UserError, match=r'cannot download .*Download http\S+mambaout_kobe.pth on a machine with a network'
    ):
        load(f'{server}/mambaout_kobe.pth')


def fetch_together(urls: list[str]) -> list[str]:
    """Fetch each URL in a process of its own, all at once; return the files or the messages of the errors."""
    context = multiprocessing.get_context('fork')
    start, answers = context.Barrier(len(urls)), context.SimpleQueue()

    def fetch_one(url: str) -> None:
        start.wait(TIME_LIMIT)
        try:
            answers.put(str(fetch(url)))
        except UserError as error:
            answers.put(str(error))

    processes = [context.Process(target=fetch_one, args=(url,)) for url in urls]
    for process in processes:
        process.start()
    for process in processes:
        process.join(TIME_LIMIT)
    assert [process.exitcode for process in processes] == [0] * len(urls)
    return [answers.get() for _ in urls]


def test_processes_that_need_the_same_file_download_it_once(server, tmp_path):
    content = bytes(range(256)) * 4096
    for name in ('model.pth', 'other.pth'):
        (tmp_path / 'remote' / name).write_bytes(content)
    paths = fetch_together([f'{server}/model.pth', f'{server}/model.pth', f'{server}/other.pth'])
    assert len(set(paths)) == 2 and all(Path(path).read_bytes() == content for path in paths)
    assert sorted((tmp_path / 'requests').read_text().split()) == ['/model.pth', '/other.pth']


def test_after_a_failed_download_the_next_process_tries_again(server, tmp_path):
    errors = fetch_together([f'{server}/nothing.pth'] * 2)
    assert all('cannot download the weights' in error for error in errors)
    assert (tmp_path / 'requests').read_text().split() == ['/nothing.pth'] * 2


def test_each_process_checks_the_hash_of_a_downloaded_file(server, tmp_path):
    (tmp_path / 'remote/model-01234567.pth').write_bytes(b'other content')
    cached = tmp_path / 'cache/checkpoints/model-01234567.pth'
    errors = fetch_together([f'{server}/model-01234567.pth'] * 2)
    assert all('cannot download the weights' in error for error in errors) and not cached.exists()
    cached.write_bytes(b'other content')
    errors = fetch_together([f'{server}/model-01234567.pth'] * 2)
    assert all('is damaged or not the requested file' in error for error in errors)


@pytest.mark.parametrize('arch', ARCHS)
def test_renaming_to_the_authors_names_and_back_changes_nothing(arch):
    with torch.device('meta'):
        classifier = ImageClassifier(dict(type='MambaOut', arch=arch)).state_dict()
    state = {key.removeprefix('backbone.'): value for key, value in classifier.items()}
    there = names_of_the_authors(state)
    assert set(there) == set(authors_names(state)) and not set(there) & {k for k in state if 'stem' in k}
    assert list(our_names(there)) == list(state)


def test_a_folder_with_weights_loads(published, tmp_path):
    safetensors.torch.save_file(published, tmp_path / 'model.safetensors')
    assert torch.equal(load(tmp_path).stem.conv1.weight, published['stem.conv1.weight'])


def test_a_list_of_initialisers_loads_weights_as_strictly(published, tmp_path):
    state = {k: v for k, v in published.items() if not k.startswith('stages.0.')}
    torch.save(state, path := tmp_path / 'model.pth')
    steps = [dict(type='Constant', layer='LayerNorm', val=3), dict(type='Pretrained', checkpoint=str(path))]
    with pytest.raises(UserError, match='missing stages.0.blocks.0'):
        MambaOut('femto', init_cfg=steps).init_weights()
    torch.save(published, path)
    (model := MambaOut('femto', init_cfg=steps)).init_weights()
    assert model.out_norms['0'].weight.eq(3).all() and model.stem.norm1.weight.eq(1).all()


def test_weights_hold_all_output_norms_or_none(published, tmp_path):
    ours = dict(published) | {k: v for k, v in MambaOut('femto').state_dict().items() if k.startswith('out_norms.')}
    torch.save({k: v for k, v in ours.items() if k != 'out_norms.2.weight'}, path := tmp_path / 'model.pth')
    with pytest.raises(UserError, match='missing out_norms.2.weight'):
        load(path)
    torch.save(ours, path)
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    MambaOut('femto', out_indices=(1, 2), init_cfg=init_cfg).init_weights()  # which has no norms 0 and 3


def test_published_weights_load_into_a_model_with_an_ssm_and_a_partial_ssm_is_refused(published, tmp_path):
    MMLogger.get_instance('test_ssm', log_file=str(tmp_path / 'log'))
    torch.save(published, path := tmp_path / 'model.pth')
    model = MambaOut('femto', ssm=['rows'], init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    before = model.state_dict()['stages.0.blocks.0.s6.0.dt_proj.bias'].clone()
    model.init_weights()
    state = model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in published.items() if not k.startswith('head.'))
    assert torch.equal(state['stages.0.blocks.0.s6.0.dt_proj.bias'], before)
    assert 'initialised: out_norms.*, .s6.*; not used: head.*' in (tmp_path / 'log').read_text()

    torch.save(state, path)
    assert load_error(MambaOut('femto'), path).startswith('unexpected stages.0.blocks.0.s6.0.A_log')
    del state['stages.1.blocks.2.s6.0.D']
    torch.save(state, path)
    assert load_error(model, path).startswith('missing stages.1.blocks.2.s6.0.D.')


def load_error(model: MambaOut, path: Path) -> str:
    """The end of the message that refuses the weights in a file."""
    with pytest.raises(UserError) as caught:
        load_pretrained(model, str(path))
    return str(caught.value).split('do not fit the model: ')[1]


def test_the_backbone_of_a_detector_loads_with_its_output_norms(published, tmp_path):
    ours = {f'backbone.{k}': v for k, v in published.items() if not k.startswith('head.')}
    for i, dim in enumerate((48, 96, 192, 288)):
        ours |= {f'backbone.out_norms.{i}.{name}': torch.full((dim,), 2.0) for name in ('weight', 'bias')}
    torch.save(dict(state_dict=ours | {'neck.weight': torch.ones(1)}, meta={}), path := tmp_path / 'detector.pth')
    state = load(path).state_dict()
    assert {f'backbone.{k}' for k in state} == set(ours)
    assert all(torch.equal(v, ours[f'backbone.{k}']) for k, v in state.items())


def test_the_log_lists_what_was_loaded_and_what_was_not(published, tmp_path):
    MMLogger.get_instance('test_weights', log_file=str(tmp_path / 'log'))
    torch.save(published, path := tmp_path / 'model.pth')
    load(path)
    said = (tmp_path / 'log').read_text()
    assert str(path) in said and 'initialised: out_norms.*' in said and 'not used: head.*' in said


def test_the_log_names_the_revision_of_an_unpinned_repository(published, hub_cache, tmp_path):
    MMLogger.get_instance('test_revision', log_file=str(tmp_path / 'log'))
    fill_hub_cache(hub_cache, 'someone/mine', published, revision='cd' * 20)
    load('hf-hub:someone/mine')
    revision = 'cd' * 20
    expected = f'hf-hub:someone/mine is revision {revision} today; append @{revision} to pin it'
    assert expected in (tmp_path / 'log').read_text()


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
@pytest.mark.parametrize('share', [0.0, 0.5, 0.99])
def test_a_truncated_file_is_reported_as_damaged(published, tmp_path, suffix, share):
    path = tmp_path / f'model{suffix}'
    safetensors.torch.save_file(published, path) if suffix == '.safetensors' else torch.save(published, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UserError, match=f'{path} .* is damaged, cut off or not a checkpoint'):
        read_checkpoint(path)


FIRST = dict(MambaOut='stem.conv1', VMamba='stem.0', ViT='patch_embed.proj')  # convolution of each backbone


def small(model: str, channels: int, checkpoint: Path | None = None) -> nn.Module:
    """A backbone for images of a number of channels, with the weights of a file."""
    sizes = dict(
        MambaOut=dict(depths=(1, 1), dims=(16, 24)),
        VMamba=dict(depths=(1, 1), dims=(16, 32)),
        ViT=dict(dim=24, depth=4, heads=2),
    )
    last = 3 if model == 'ViT' else 1
    init_cfg = checkpoint and dict(type='Pretrained', checkpoint=str(checkpoint))
    backbone = getattr(backbones, model)(sizes[model], in_channels=channels, out_indices=(last,), init_cfg=init_cfg)
    if checkpoint:
        backbone.init_weights()
    return backbone.eval()


@pytest.mark.parametrize('model', FIRST)
def test_weights_for_rgb_are_adapted_to_other_numbers_of_channels(model, tmp_path):
    MMLogger.get_instance(f'test_channels_{model}', log_file=str(tmp_path / 'log'))
    rgb = small(model, 3)
    torch.save(rgb.state_dict(), path := tmp_path / 'rgb.pth')
    grey = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        expected = rgb(grey.expand(1, 3, 64, 64))[0]
        torch.testing.assert_close(small(model, 1, path)(grey)[0], expected)  # a grey image gives the same maps
    weight = rgb.state_dict()[f'{FIRST[model]}.weight']
    five = small(model, 5, path).state_dict()
    repeated = torch.stack([weight[:, i] for i in (0, 1, 2, 0, 1)], dim=1)
    torch.testing.assert_close(five.pop(f'{FIRST[model]}.weight'), repeated * 3 / 5)
    assert all(torch.equal(value, rgb.state_dict()[key]) for key, value in five.items())
    said = (tmp_path / 'log').read_text()
    assert f'{FIRST[model]}.weight is adapted from 3 to 1 channels: it is summed over them' in said
    assert f'{FIRST[model]}.weight is adapted from 3 to 5 channels: it is repeated and scaled by 3/5' in said


@pytest.mark.parametrize('model', FIRST)
def test_weights_of_the_same_number_of_channels_stay_and_others_are_refused(model, tmp_path):
    torch.save((four := small(model, 4)).state_dict(), path := tmp_path / 'four.pth')
    assert all(torch.equal(value, four.state_dict()[key]) for key, value in small(model, 4, path).state_dict().items())
    for channels in (3, 5):
        with pytest.raises(UserError, match=rf'{FIRST[model]}\.weight is \(\d+, 4, .*instead of \(\d+, {channels}, '):
            small(model, channels, path)


def test_published_weights_under_either_naming_are_adapted(published, tmp_path):
    expected = published['stem.conv1.weight'].sum(dim=1, keepdim=True)
    for state in (published, authors_names(published)):
        torch.save(state, path := tmp_path / 'model.pth')
        model = MambaOut('femto', in_channels=1, init_cfg=dict(type='Pretrained', checkpoint=str(path)))
        model.init_weights()
        torch.testing.assert_close(model.stem.conv1.weight.data, expected)


def test_a_failed_download_says_what_to_do(hub_cache):
    with pytest.raises(UserError, match=r'cannot download .*init_cfg.checkpoint=.*init_cfg=None'):
        load('hf-hub:timm/mambaout_femto.in1k')


def test_weights_that_are_not_there_are_refused_with_the_options_to_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        fetch('tiny.ckpt')
    assert str(caught.value).startswith(f'the weights tiny.ckpt do not exist (seen from {tmp_path}). Name the file: ')
    assert 'init_cfg.checkpoint=/path/to/file' in str(caught.value) and 'init_cfg=None' in str(caught.value)
