"""The index of the models holds what the data file says, and OpenMMLab's own programs can use it and the configs."""

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmdet_plugin
import mmseg_plugin
from docs.model_index import INDEX, METAFILE, metafile
from mmengine_plugin.predict import Predictor
from tests.conftest import DETECTION, ROOT, SEGMENTATION
from tests.docs.test_pages import blocks


@pytest.fixture(scope='module')
def rows() -> list[dict[str, str]]:
    return list(csv.DictReader((ROOT / 'docs/models.csv').open(newline='')))


@pytest.fixture(scope='module')
def models() -> list[dict]:
    (path,) = yaml.safe_load(INDEX.read_text())['Import']
    assert ROOT / path == METAFILE
    return yaml.safe_load(METAFILE.read_text())['Models']


def test_it_has_each_model_of_the_data_file_once_with_its_config_and_its_counts(rows, models):
    assert [model['Config'] for model in models] == [f'configs/{row["config"]}.py' for row in rows]
    assert len({model['Name'] for model in models}) == len(rows)
    for model, row in zip(models, rows, strict=True):
        assert model['Name'] == Path(model['Config']).stem and (ROOT / model['Config']).is_file()
        assert model['Metadata']['Parameters'] / 1e6 == pytest.approx(float(row['params']))
        assert model['Metadata']['FLOPs'] / 1e9 == pytest.approx(float(row['macs']))


def test_it_is_what_its_program_writes(rows, models):
    some = [row for row in rows if row['config'].endswith(('mask_rcnn_mambaout_tiny', 'upernet_vmamba_tiny'))]
    written = yaml.safe_load(metafile(some))
    known = yaml.safe_load(METAFILE.read_text())['Collections']
    assert [entry['Name'] for entry in written['Models']] == ['mask_rcnn_mambaout_tiny', 'upernet_vmamba_tiny']
    assert all(entry in models for entry in written['Models'])
    assert all(entry in known for entry in written['Collections'])
    some[0] = some[0] | dict(params='1.00')
    assert yaml.safe_load(metafile(some))['Models'][0] not in models


def test_it_has_neither_scores_nor_weights_before_there_are_ours(models):
    assert all(model.keys().isdisjoint({'Results', 'Weights'}) for model in models)


@pytest.fixture(scope='module')
def built(tmp_path_factory) -> Path:
    """What the wheel holds."""
    folder = tmp_path_factory.mktemp('built')
    command = [sys.executable, 'setup.py', '-q', 'build_py', '--build-lib', folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


def test_the_wheel_has_it_where_openmim_looks_and_its_paths_lead_to_the_configs(built, models):
    # OpenMIM looks in the first top-level package of a distribution by name
    first = min(path.name for path in built.iterdir())
    index = built / first / '.mim/model-index.yml'
    (path,) = yaml.safe_load(index.read_text())['Import']
    found = yaml.safe_load((index.parent / path).read_text())['Models']
    assert [model['Name'] for model in found] == [model['Name'] for model in models]
    for model in found:
        assert (index.parent / model['Config']).read_text() == (ROOT / f'configs/{model["Config"][29:]}').read_text()


@pytest.mark.skipif(not importlib.util.find_spec('modelindex'), reason='needs `pip install model-index`')
def test_the_reader_of_openmim_finds_every_model(built, models):
    from modelindex.load_model_index import load

    index = load(str(built / 'backbones/.mim/model-index.yml'))
    index.build_models_with_collections()
    assert [model.name for model in index.models] == [model['Name'] for model in models]


@pytest.fixture(scope='module')
def image(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('image') / 'noise.png'
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8))
    return path


def checkpoint(config: Path, folder: Path) -> str:
    """A checkpoint of random weights, with the classes of the config's data."""
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    meta = dict(dataset_meta=dict(classes=tuple(f'class {i}' for i in range(num_classes(model)))))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / 'model.pth')
    return str(folder / 'model.pth')


def num_classes(model) -> int:
    return model.roi_head.bbox_head.num_classes if hasattr(model, 'roi_head') else model.decode_head.num_classes


def test_mmdets_inferencer_finds_a_config_by_our_function_and_predicts_what_our_predictor_does(image, tmp_path):
    (text,) = [text for text in blocks('experiments.md', 'python') if 'apis' in text]
    weights, names = checkpoint(DETECTION, tmp_path), {}
    text = text.replace('mask_rcnn_mambaout_tiny', 'mini/mask_rcnn_mambaout_mini').replace('epoch_12.pth', weights)
    exec(text, names)
    theirs = names['inferencer'](str(image), pred_score_thr=0.0)
    name = mmdet_plugin.config('mini/mask_rcnn_mambaout_mini')
    ours = Predictor(name, weights)(image, tmp_path / 'out', score_thr=0.0)
    (found,) = theirs['predictions']
    assert len(ours) == len(found['scores']) > 5
    corners = np.array([[x, y, x + w, y + h] for x, y, w, h in (result['bbox'] for result in ours)])
    np.testing.assert_allclose(found['scores'], [result['score'] for result in ours], rtol=1e-5)
    np.testing.assert_allclose(found['bboxes'], corners, atol=1e-2)
    assert found['labels'] == [result['category_id'] - 1 for result in ours]


def test_mmsegs_inferencer_predicts_what_our_predictor_does(image, tmp_path):
    from mmseg.apis import MMSegInferencer

    weights = checkpoint(SEGMENTATION, tmp_path)
    name = mmseg_plugin.config('mini/upernet_mambaout_mini')
    theirs = MMSegInferencer(name, weights, device='cpu')(str(image))['predictions']
    Predictor(name, weights, device='cpu')(image, tmp_path / 'out')
    (labels,) = (tmp_path / 'out/labels').rglob('*.png')
    assert len(np.unique(theirs)) > 1
    np.testing.assert_array_equal(theirs, cv2.imread(str(labels), cv2.IMREAD_UNCHANGED))


def test_a_name_alone_is_looked_up_by_mmdet_among_its_own_models_only():
    from mmdet.apis import DetInferencer

    with pytest.raises(ValueError, match='Cannot find model: mask_rcnn_mambaout_tiny in mmdet'):
        DetInferencer('mask_rcnn_mambaout_tiny')
