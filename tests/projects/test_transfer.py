"""Detectors that start from a classifier of this project score higher than from scratch."""

import json
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from projects.transfer import transfer
from tests.conftest import ROOT

CONFIGS = ROOT / 'projects/transfer/configs'


@pytest.mark.parametrize('model', transfer.MODELS)
def test_classifier_and_detector_have_one_backbone(model):
    shapes = []
    for head in ('imagenet', 'mask_rcnn'):
        cfg = Config.fromfile(CONFIGS / f'{head}_{model}.py')
        init_default_scope(cfg.default_scope)
        with torch.device('meta'):
            backbone = MODELS.build(cfg.model).backbone
        names = backbone.state_dict().items()
        shapes.append({name: value.shape for name, value in names if 'out_norms.' not in name})
    assert shapes[0] == shapes[1] and any('.s6.' in name for name in shapes[0]) == model.endswith('ssm')


def test_the_table_and_the_plot_are_those_of_the_committed_run(tmp_path):
    results = ROOT / 'projects/transfer/results'
    rows = json.loads((results / 'transfer.json').read_text())['rows']
    assert transfer.table(rows) == (results / 'transfer.md').read_text()
    assert (results / 'transfer.md').read_text() in (results.parent / 'README.md').read_text()
    assert {(row['model'], row['seed']) for row in rows} == {(m, s) for m in transfer.MODELS for s in (0, 1, 2)}
    for row in rows:
        assert row['from the classifier']['bbox'] > row['from scratch']['bbox'], row
    transfer.draw(rows, tmp_path / 'transfer.png')
    assert (tmp_path / 'transfer.png').stat().st_size > 5000


@pytest.mark.full_size
@pytest.mark.parametrize('model', transfer.MODELS)
@pytest.mark.parametrize('seed', [0, 1, 2])
def test_a_detector_scores_higher_from_a_classifier_than_from_scratch(model, seed, tmp_path):
    program = [sys.executable, str(ROOT / 'projects/transfer/transfer.py'), str(tmp_path)]
    subprocess.run([*program, '--models', model, '--seeds', str(seed)], check=True)
    (row,) = json.loads((tmp_path / 'transfer.json').read_text())['rows']
    assert row['from the classifier']['bbox'] > row['from scratch']['bbox']
    assert row['from the classifier']['segm'] > row['from scratch']['segm']
