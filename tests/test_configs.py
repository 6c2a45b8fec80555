"""The configs: their models have the published sizes, and they can be inherited from anywhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from backbones import UserError
from mmengine_plugin import config
from tests.conftest import CONFIGS, ROOT

SIZES = ['femto', 'kobe', 'tiny', 'small', 'base']
HEADS = ['mask_rcnn', 'upernet']
PACKAGES = ['backbones', 'mmdet_plugin', 'mmengine_plugin', 'mmseg_plugin', 'timm_plugin']
PAPER_PARAMS = {  # millions: paper, Tables 2 and 3
    'mask_rcnn': dict(tiny=43, small=65, base=100),
    'upernet': dict(tiny=54, small=76, base=112),
}


def load(name: str) -> Config:
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    init_default_scope(cfg.default_scope)
    return cfg


def build(cfg: Config):
    with torch.device('meta'):
        return MODELS.build(cfg.model)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('head', HEADS)
def test_parameters_round_to_the_papers(head, size):
    model = build(load(f'{head}_mambaout_{size}'))
    count = sum(p.numel() for p in model.parameters()) / 1e6
    backbone = sum(p.numel() for p in model.backbone.parameters()) / 1e6
    if size in PAPER_PARAMS[head]:
        assert round(count) == PAPER_PARAMS[head][size]
    # Table 4 without the classifier and with four output norms, computed from the published block
    assert backbone == pytest.approx(dict(femto=5.82, kobe=7.65, tiny=22.91, small=44.85, base=79.37)[size], abs=0.006)


@pytest.mark.parametrize('name', CONFIGS)
def test_channel_lists_are_the_backbones(name):
    cfg = load(name)
    with torch.device('meta'):
        backbone = MODELS.build(cfg.model.backbone)
    channels = [norm.weight.numel() for norm in backbone.out_norms.values()]
    if 'mask_rcnn' in name:
        assert list(cfg.model.neck.in_channels) == channels
    else:
        assert list(cfg.model.decode_head.in_channels) == channels
        assert cfg.model.auxiliary_head.in_channels == channels[2]


def test_the_detector_of_boxes_alone_has_no_mask_head_and_is_inherited_by_name(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text("_base_ = __import__('mmdet_plugin').config('faster_rcnn_mambaout_tiny')\n")
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    model, with_masks = build(cfg), build(load('mask_rcnn_mambaout_tiny'))
    assert not model.roi_head.with_mask and with_masks.roi_head.with_mask
    masks = sum(p.numel() for p in with_masks.roi_head.mask_head.parameters())
    count = sum(p.numel() for p in model.parameters())
    assert count == sum(p.numel() for p in with_masks.parameters()) - masks
    assert cfg.default_hooks.checkpoint.save_best == 'coco/bbox_mAP'


def test_a_config_elsewhere_inherits_by_path(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(f'_base_ = {str(ROOT / "configs/mask_rcnn_mambaout_tiny.py")!r}\ntrain_cfg = dict(max_epochs=3)\n')
    cfg = Config.fromfile(path)
    assert cfg.train_cfg.max_epochs == 3 and cfg.model.backbone.arch == 'tiny'


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
    """A folder with nothing but the installed package, made from a wheel."""
    folder = tmp_path_factory.mktemp('installed')
    pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
    source = folder / 'source'
    for name in (*PACKAGES, 'configs', 'tools'):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('README.md', 'model-index.yml', 'setup.py'):
        shutil.copy(ROOT / name, source)
    subprocess.run([*pip, 'wheel', '--no-deps', '--no-build-isolation', '-w', folder, source], check=True)
    wheel = next(folder.glob('*.whl'))
    subprocess.run([*pip, 'install', '--no-deps', '--target', folder / 'site', wheel], check=True)
    return folder / 'site'


def in_package(installed, *command, cwd):
    environment = os.environ | (dict(PYTHONPATH=str(installed)) if installed else {})
    return subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_wheel_has_every_module_with_configs_and_tools_inside_mmengine_plugin(installed):
    top = {path.name for path in installed.iterdir() if path.is_dir() and not path.name.endswith('.dist-info')}
    assert top == set(PACKAGES)
    places = {name: name for name in PACKAGES} | {name: f'mmengine_plugin/{name}' for name in ('configs', 'tools')}
    expected = {
        f'{place}/{path.relative_to(ROOT / folder)}'
        for folder, place in places.items()
        for path in (ROOT / folder).rglob('*.py')
    }
    assert {str(path.relative_to(installed)) for path in installed.rglob('*.py')} == expected


@pytest.mark.parametrize(
    ('plugin', 'name'),
    [
        ('mmdet_plugin', 'mask_rcnn_mambaout_tiny'),
        ('mmseg_plugin', 'upernet_mambaout_tiny'),
        ('timm_plugin', 'imagenet_mambaout_tiny'),
    ],
)
def test_an_installed_package_is_inherited_from_anywhere(installed, tmp_path, plugin, name):
    (tmp_path / 'mine.py').write_text(f"_base_ = __import__('{plugin}').config('{name}')\n")
    program = "from mmengine.config import Config; import backbones; c = Config.fromfile('mine.py'); "
    done = in_package(installed, '-c', program + 'print(backbones.__file__, c.model.backbone.arch)', cwd=tmp_path)
    assert done.stdout.split() == [str(installed / 'backbones/__init__.py'), 'tiny'], done.stderr


@pytest.mark.parametrize('editable', [False, True])
def test_an_installed_package_has_its_programs(installed, tmp_path, editable):
    done = in_package(None if editable else installed, '-m', 'mmengine_plugin.tools.train', '--help', cwd=tmp_path)
    assert done.returncode == 0 and '--auto-scale-lr' in done.stdout


@pytest.mark.parametrize('name', CONFIGS)
def test_mambaouts_configs_lie_in_configs_and_those_of_other_backbones_in_a_folder_named_after_their_module(name):
    backbone = load(name).model.backbone.type
    module = MODELS.get(backbone).__module__.split('.')[-1]
    folder = '' if module == 'mambaout' else f'{module}/'
    assert name.startswith(tuple(f'{folder}{head}_' for head in HEADS))
    assert backbone.lower() in name.replace('_', '')


@pytest.mark.parametrize(
    ('name', 'nearest'),
    [
        ('mask_rcnn_mambaout_tinny', 'mask_rcnn_mambaout_tiny'),
        ('mask_rcnn_vmamba_tiny', 'vmamba/mask_rcnn_vmamba_tiny'),  # its name before it had a folder
        ('upernet_vit_small_causal', 'vit/upernet_vit_small_causal'),
    ],
)
def test_an_unknown_config_is_answered_with_the_nearest(name, nearest):
    with pytest.raises(UserError, match=f'did you mean {nearest!r}'):
        config(name)


def test_an_unknown_file_is_answered_with_the_one_of_that_name_in_a_folder_beside_it(tool):
    done = tool('get_flops.py', 'configs/mask_rcnn_vmamba_tiny.py')
    assert done.returncode == 1
    assert "does not exist (did you mean 'configs/vmamba/mask_rcnn_vmamba_tiny.py'?)" in done.stdout


def own_recipes() -> list[tuple[str, str, str]]:
    """The config of each model's own recipe, the environment variable that names the size, and each size."""
    cases = []
    for path in sorted((ROOT / 'configs').rglob('*_official.py')):
        (variable,) = set(re.findall(r'\{\{\$(\w+):', path.read_text()))
        name = path.relative_to(ROOT / 'configs').with_suffix('').as_posix()
        prefix = name.removesuffix('official')
        cases += [(name, variable, other.removeprefix(prefix)) for other in CONFIGS if other.startswith(prefix)]
    return cases


@pytest.mark.parametrize(('name', 'variable', 'size'), own_recipes())
def test_the_environment_names_the_size_for_a_models_own_recipe(name, variable, size, monkeypatch):
    monkeypatch.setenv(variable, size)
    official, ours = load(name), load(name.removesuffix('official') + size)
    assert variable == f'{ours.model.backbone.type.upper()}_SIZE'
    assert official.work_dir == f'./work_dirs/{Path(ours.filename).stem}_official'
    theirs, own = (dict(build(cfg).backbone.named_parameters()) for cfg in (official, ours))
    differing = {
        key for key in theirs | own if key not in theirs or key not in own or theirs[key].shape != own[key].shape
    }
    assert all(key.startswith(('out_norms.', 'rescale.')) for key in differing)


@pytest.mark.parametrize(
    ('size', 'message'),
    [
        (None, 'needs the environment variable VMAMBA_SIZE'),
        ('tinny', 'tinny.py does not exist'),
        ('official', 'inherits from itself'),
    ],
)
def test_vmambas_own_recipe_without_a_size_that_exists_is_refused(size, message, monkeypatch, tool):
    if size:
        monkeypatch.setenv('VMAMBA_SIZE', size)
    done = tool('train.py', 'configs/vmamba/mask_rcnn_vmamba_official.py')
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith('error: config configs/vmamba/mask_rcnn_vmamba_official.py')
    assert message in done.stdout
