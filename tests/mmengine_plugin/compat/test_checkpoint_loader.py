"""Whoever loads a checkpoint, nothing in it is run."""

import os
import re
import subprocess
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner.checkpoint import get_torchvision_models

from backbones import MambaOut, UserError
from tests.conftest import DETECTION, ROOT, SEGMENTATION


class Payload:
    """Unpickling it calls a function."""

    def __init__(self, function: Callable, *arguments: object):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def runner(path, resume: bool) -> None:
    cfg = Config.fromfile(DETECTION)
    cfg.merge_from_dict(dict(work_dir=f'{path}.work', load_from=str(path), resume=resume))
    for split in ('train', 'val', 'test'):
        for part in ('dataloader', 'evaluator', 'cfg'):
            cfg[f'{split}_{part}'] = None
    cfg.optim_wrapper = cfg.param_scheduler = None
    cfg.auto_scale_lr = None
    run = Runner.from_cfg(cfg)
    run.load_or_resume()


def infer(framework: str, config, path) -> None:
    # not at the top: they look for operators when they are imported, and a config brings these along
    from mmdet.apis import DetInferencer
    from mmseg.apis import MMSegInferencer

    dict(mmdet=DetInferencer, mmseg=MMSegInferencer)[framework](config and str(config), path, device='cpu')


def convert(path) -> None:
    command = [sys.executable, ROOT / 'tools/convert_weights.py', path, f'{path}.safetensors']
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(done.stderr)


ROADS = {
    'the loader of mmengine': CheckpointLoader.load_checkpoint,
    'init_cfg': lambda path: MambaOut('femto', init_cfg=dict(type='Pretrained', checkpoint=path)).init_weights(),
    'load_from': lambda path: runner(path, resume=False),
    'resume': lambda path: runner(path, resume=True),
    'the inferencer of mmdet': lambda path: infer('mmdet', DETECTION, path),
    'the inferencer of mmdet without a config': lambda path: infer('mmdet', None, path),
    'the inferencer of mmseg': lambda path: infer('mmseg', SEGMENTATION, path),
    'the inferencer of mmseg without a config': lambda path: infer('mmseg', None, path),
    'convert_weights.py': convert,
}


@pytest.fixture(scope='module')
def weights() -> dict[str, torch.Tensor]:
    """What fits the mini detector."""
    cfg = Config.fromfile(DETECTION)
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model).state_dict()


@pytest.mark.parametrize('place', ['beside the weights', 'in an optimizer entry'])
@pytest.mark.parametrize('road', ROADS)
def test_code_in_a_pickle_is_refused_and_not_run(road, place, weights, tmp_path):
    trap = Payload(open, str(tmp_path / 'ran'), 'w')
    hidden = dict(bait=trap) if place == 'beside the weights' else dict(optimizer=dict(state={0: dict(step=trap)}))
    torch.save(dict(state_dict=weights, meta={}, **hidden), tmp_path / 'evil.pth')
    with pytest.raises(UserError, match='was refused: .* could run code .*open'):
        ROADS[road](str(tmp_path / 'evil.pth'))
    assert not (tmp_path / 'ran').exists()
    torch.load(tmp_path / 'evil.pth', weights_only=False)
    assert (tmp_path / 'ran').exists()  # the trap works


POINTER = Payload(np.ndarray, (1,), Payload(np.dtype, 'O'), bytearray(b'A' * 8))  # an object at an address of choice


@pytest.mark.parametrize(
    ('trap', 'name'),
    [
        (Payload(os.system, 'true'), 'system'),
        (Payload(eval, '1'), 'eval'),
        (Payload(subprocess.Popen, ['true']), 'Popen'),
        (Payload(getattr, 'a', 'format'), 'nothing'),
        (Payload(np.dtype, [('cfg', 'U9')]), "'cfg'"),
        (Payload(HistoryBuffer, POINTER, [1]), "numpy.dtype('O')"),
        (Counter(a=1), 'nothing'),
    ],
    ids=['system', 'eval', 'Popen', 'getattr', 'record', 'pointer', 'harmless'],
)
def test_what_a_file_may_call_is_nothing(trap, name, tmp_path):
    torch.save(dict(state_dict={}, bait=trap), tmp_path / 'evil.pth')
    if name == 'nothing':
        content = CheckpointLoader.load_checkpoint(str(tmp_path / 'evil.pth'))
        assert content['bait'] in (None, dict(a=1))  # a stand-in was called, a subclass became a dict
    else:
        with pytest.raises(UserError, match=f'could run code .*{re.escape(name)}'):
            CheckpointLoader.load_checkpoint(str(tmp_path / 'evil.pth'))


def disguised(**content: object) -> OrderedDict:
    """A dict that tells whoever asks by its methods that it holds nothing."""
    section = OrderedDict(content)
    section.get = section.pop = set
    return section


@pytest.mark.parametrize('mapping', [dict, disguised])
@pytest.mark.parametrize('road', [road for road in ROADS if road == 'load_from' or 'inferencer' in road])
def test_a_stored_config_is_not_evaluated(road, mapping, weights, tmp_path):
    text = f"a = open({str(tmp_path / 'ran')!r}, 'w').close()"
    hub = mapping(log_scalars={}, runtime_info=mapping(cfg=text, max_epochs=1), resumed_keys={})
    # the weights of the segmentor's road do not matter: it fails at the config, or loads what fits
    content = mapping(state_dict=weights, meta=mapping(cfg=text, config=text), message_hub=hub)
    torch.save(content, tmp_path / 'evil.pth')
    if 'without a config' in road:
        with pytest.raises(ValueError, match='Cannot find the config'):
            ROADS[road](str(tmp_path / 'evil.pth'))
    else:
        ROADS[road](str(tmp_path / 'evil.pth'))
    assert not (tmp_path / 'ran').exists()
    Config.fromstring(text, '.py')
    assert (tmp_path / 'ran').exists()  # the trap works


def test_only_an_explicit_word_lets_a_checkpoint_run_code(tool, weights, mini_data, tmp_path):
    trap = Payload(open, str(tmp_path / 'ran'), 'w')
    torch.save(dict(state_dict=weights, meta={}, optimizer=trap), tmp_path / 'mine.pth')
    arguments = ['test.py', DETECTION, tmp_path / 'mine.pth', '--work-dir', tmp_path / 'work']
    done = tool(*arguments, cwd=mini_data)
    assert done.returncode == 1 and '--trust-checkpoint' in done.stdout
    assert not (tmp_path / 'ran').exists()
    done = tool(*arguments, '--trust-checkpoint', cwd=mini_data)
    assert done.returncode == 0, done.stdout[-3000:]
    assert 'CHECKPOINT FILES ARE TRUSTED' in done.stdout
    assert (tmp_path / 'ran').exists()


def test_a_download_must_have_the_hash_in_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr('torch.hub.get_dir', lambda: str(tmp_path))
    url = get_torchvision_models()['resnet18']  # .../resnet18-5c106cde.pth, or another hash in a later release
    (place := tmp_path / 'checkpoints').mkdir()
    torch.save({'conv1.weight': torch.ones(1)}, place / Path(url).name)
    with pytest.raises(UserError, match=f'{Path(url).name} is damaged or not the requested file.* should begin with'):
        CheckpointLoader.load_checkpoint('torchvision://resnet18')


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('torchvision://resnet51', "did you mean 'resnet5"),
        ('s3://bucket/model.pth', 'copy the file here'),
        ('petrel://model.pth', 'copy the file here'),
        ('pavi://model.pth', 'copy the file here'),
    ],
)
def test_other_addresses_are_answered(name, message):
    with pytest.raises(UserError, match=message):
        CheckpointLoader.load_checkpoint(name)
