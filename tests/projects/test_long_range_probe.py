"""The long-range probe from configs to plots, on trainings that are too short to learn anything."""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from projects.long_range_probe import measuring, report
from tests.conftest import ROOT

PROBE = ROOT / 'projects/long_range_probe/probe.py'
CONFIGS = sorted(path.stem for path in PROBE.parent.glob('configs/*.py'))


def test_the_probe_trains_all_of_its_configs():
    assert sorted(report.NAMES) == CONFIGS


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_sets_its_backbone_and_channels_alone(name):
    cfg, first = (Config.fromfile(PROBE.parent / f'configs/{stem}.py') for stem in (name, 'mambaout'))
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    (out_norm,) = model.backbone.out_norms.values()
    assert model.decode_head.in_channels == len(out_norm.weight)
    assert 150_000 < sum(p.numel() for p in model.backbone.parameters()) < 500_000
    for config in (cfg, first):
        config.model.pop('backbone')
        for key in ('in_channels', 'channels'):
            config.model.decode_head.pop(key)
        config.pop('width', None)
    assert cfg.to_dict() == first.to_dict()


def test_accuracy_is_measured_by_distance_and_side_of_the_cue():
    """The model labels targets rightly if the cue is to their right, and wrongly if it is to their left."""
    cues = dict(a=dict(label=1, cue=[200, 23], targets=[168, 264]), b=dict(label=2, cue=[40, 7], targets=[104]))
    scores = torch.zeros(2, 3, 3, 32)
    scores[0, 1, 1, 168 // 16] = scores[0, 2, 1, 264 // 16] = scores[1, 1, 0, 104 // 16] = 1
    batch = dict(inputs=scores, data_samples=[SimpleNamespace(img_path=f'images/{stem}.jpg') for stem in cues])

    def model(inputs, mode):
        return inputs

    model.data_preprocessor = dict
    assert measuring.accuracy(model, [batch], cues) == dict(left={64: 0.0}, right={32: 1.0})


def test_a_receptive_field_reaches_as_far_as_the_gradient_in_its_row():
    field = np.zeros((48, 512))
    field[20, [100, 256, 300]] = 1, 2, 1
    field[2, 0] = field[40, 511] = 9  # in other rows of cells
    assert measuring.extent(field) == dict(left=156, right=44, half=0, most=156)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--iterations', 5], 'and --iterations from 10 on'),
        (['--seeds', -1], '--seeds takes numbers from 0 on'),
        (['--images', 0], "'0' is not a positive number"),
        (['--models', 'resnet'], 'invalid choice'),
    ],
)
def test_wrong_arguments_are_answered_before_anything_is_made(arguments, message, tool, tmp_path):
    done = tool(PROBE, 'out', *arguments, cwd=tmp_path)
    assert done.returncode and message in done.stdout and 'Traceback' not in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_settings_is_refused(tool, tmp_path):
    (tmp_path / 'settings.json').write_text('{"images": 40, "iterations": 10}')
    done = tool(PROBE, tmp_path, '--images', 40, '--iterations', 20)
    assert done.returncode == 1 and 'holds runs of other settings' in done.stdout
    (tmp_path / 'file').touch()
    done = tool(PROBE, tmp_path / 'file')
    assert done.returncode == 1 and 'cannot write to' in done.stdout and 'name another folder' in done.stdout


@pytest.mark.full_size
def test_it_goes_on_where_it_was_stopped_and_reports_accuracies_and_receptive_fields(tool, tmp_path):
    arguments = ['out', '--models', 'mambaout', 'vit_causal', '--seeds', 0, '--images', 40, '--iterations', 10]
    command = [sys.executable, PROBE, *arguments]
    process = subprocess.Popen([*map(str, command)], cwd=tmp_path, process_group=0)
    logs = [tmp_path / f'out/{name}_0/train.log' for name in ('mambaout', 'vit_causal')]
    while not all(log.is_file() and log.stat().st_size for log in logs[: os.cpu_count()]):
        assert process.poll() is None
        time.sleep(0.1)
    process.terminate()
    assert process.wait(60)
    with pytest.raises(ProcessLookupError):  # no training that it started is left
        for _ in range(200):
            os.killpg(process.pid, 0)
            time.sleep(0.1)

    for again in (False, True):
        done = tool(PROBE, *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stdout[-3000:]
        assert ('mambaout, seed 0: ' in done.stdout) != again
    models = json.loads((tmp_path / 'out/probe.json').read_text())['models']
    fields = {name: model['runs'][0]['receptive_field'] for name, model in models.items()}
    # 3 + 12 + 4 + 24 + 8 + 2 * 48 pixels to each side of a cell's left border, by its kernels and strides
    assert fields['mambaout']['left'] == fields['mambaout']['right'] == 147
    assert fields['vit_causal']['left'] == 256 and fields['vit_causal']['right'] == 15
    assert all(0 < run['seconds_per_iteration'] < 60 for model in models.values() for run in model['runs'])
    for plot in ('probe_accuracy.png', 'probe_receptive_fields.png'):
        assert (tmp_path / 'out' / plot).stat().st_size > 5000


@pytest.mark.full_size
def test_a_training_that_fails_ends_the_others_and_says_why(tool, tmp_path):
    (tmp_path / 'vit_0').mkdir()
    (tmp_path / 'vit_0/last_checkpoint').write_text('iter_5.pth')
    (tmp_path / 'vit_0/iter_5.pth').write_text('no checkpoint')
    done = tool(PROBE, tmp_path, '--models', 'vit', 'mambaout', '--seeds', 0, '--images', 40, '--iterations', 500)
    assert done.returncode == 1 and 'train.py ended with exit code 1; the end of ' in done.stdout
    assert 'iter_5.pth' in done.stdout
    assert not list(tmp_path.glob('mambaout_0/iter_500.pth'))
