"""The probe from data to plots, on trainings too short to learn anything; what models make of it, no test asks."""

import json

import pytest


@pytest.mark.full_size
def test_the_probe_reports_accuracies_and_receptive_fields_and_does_not_train_again(tool, tmp_path):
    arguments = ['out', '--models', 'mambaout', 'vit_causal', '--seeds', 0, '--images', 40, '--iterations', 10]
    for again in (False, True):
        done = tool('probe.py', *arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stdout[-3000:]
        assert ('mambaout, seed 0: ' in done.stdout) != again
    models = json.loads((tmp_path / 'out/probe.json').read_text())['models']
    fields = {name: model['runs'][0]['receptive_field'] for name, model in models.items()}
    # 3 + 12 + 4 + 24 + 8 + 2 * 48 pixels to each side of a cell's centre, by its kernels and strides
    assert fields['mambaout']['left'] <= 147 and fields['mambaout']['right'] <= 147
    assert fields['vit_causal']['left'] > 200 and fields['vit_causal']['right'] < 16  # its own cell's
    scores = [s for m in models.values() for side in m['runs'][0]['accuracy'].values() for s in side.values()]
    assert scores and all(0 <= score <= 1 for score in scores)
    for plot in ('probe_accuracy.png', 'probe_receptive_fields.png'):
        assert (tmp_path / 'out' / plot).stat().st_size > 5000
    done = tool('probe.py', *arguments[:-1], 20, cwd=tmp_path)
    assert done.returncode == 1 and 'holds a run of other settings: name another folder' in done.stdout
