"""The table of what a training step keeps: expected values are means of draws, and the page has what was measured."""

import json

import pytest
import torch
from mmengine.config import Config

from benchmarks.kept import FUSED, drop_path_rates, measure_kept
from benchmarks.report import kept_table
from mmengine_plugin.memory import build_for_training, kept_by_part
from tests.conftest import DETECTION, ROOT

RESULTS = json.loads((ROOT / 'benchmarks/results/cpu_kept.json').read_text())


def test_the_page_has_the_measured_table_and_what_the_weights_take():
    page = (ROOT / 'docs/speed.md').read_text()
    assert kept_table(RESULTS['rows']) in page
    for model in ('mask_rcnn_mambaout_tiny', 'mask_rcnn_mambaout_base', 'upernet_mambaout_tiny'):
        (params,) = {row['params'] for row in RESULTS['rows'] if row['what'] == model and 'params' in row}
        assert f'`{model}`: {16 * params / 1e9:.2f} GB' in page


def test_a_blocks_bytes_times_its_probability_is_the_mean_of_random_draws():
    cfg = Config.fromfile(DETECTION)
    cfg.model.backbone.update(drop_path_rate=0.6, gated_cnn='fused')
    model, image = build_for_training(cfg), torch.rand(1, 3, 64, 64)
    random = build_for_training(cfg, drop_path=True)
    rates = drop_path_rates(random)
    kept = kept_by_part(lambda: model.backbone(image), model, [*rates, 'backbone'])
    assert max(rates.values()) == pytest.approx(0.6) and rates.keys() < kept.keys()
    draws = [kept_by_part(lambda: random.backbone(image), random)['rest'] for _ in range(100)]
    expected = sum((1 - rates.get(part, 0)) * size for part, size in kept.items())
    assert sum(draws) / len(draws) == pytest.approx(expected, rel=0.05)
    assert max(draws) <= sum(kept.values()) and expected < 0.9 * sum(kept.values())


@pytest.mark.full_size
def test_the_figures_are_measured_again(monkeypatch):
    monkeypatch.setattr('benchmarks.kept.MODELS', ('upernet_mambaout_tiny',))
    before = [row for row in RESULTS['rows'] if row['what'] == 'upernet_mambaout_tiny']
    found = list(measure_kept())
    assert found[0]['setting'] == FUSED and 'rest_gb' in found[0]
    for row, same in zip(found, before, strict=True):
        for key, value in row.items():
            assert same[key] == (value if isinstance(value, str) else pytest.approx(value, rel=0.01)), key
