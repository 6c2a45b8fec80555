"""The configs: sizes that the paper prints, and inheritance from anywhere."""

import os
import shutil
import subprocess
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from tests.conftest import CONFIGS, ROOT

SIZES = ['femto', 'kobe', 'tiny', 'small', 'base']
HEADS = ['mask_rcnn', 'upernet']
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
    # the classifier of Table 4 left out, the four output norms added: arithmetic on the published block
    assert backbone == pytest.approx(dict(femto=5.82, kobe=7.65, tiny=22.91, small=44.85, base=79.37)[size], abs=0.006)


@pytest.mark.parametrize('name', CONFIGS)
def test_channel_lists_are_the_backbones(name):
    cfg = load(name)
    with torch.device('meta'):
        backbone = MODELS.build(cfg.model.backbone)
    channels = [norm.weight.numel() for norm in backbone.out_norms.values()]
    if name.startswith('mask_rcnn'):
        assert list(cfg.model.neck.in_channels) == channels
    else:
        assert list(cfg.model.decode_head.in_channels) == channels
        assert cfg.model.auxiliary_head.in_channels == channels[2]


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
    for name in ('backbones', 'configs', 'mmdet_plugin', 'mmengine_plugin', 'mmseg_plugin', 'tools'):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('README.md', 'setup.py'):
        shutil.copy(ROOT / name, source)
    subprocess.run([*pip, 'wheel', '--no-deps', '--no-build-isolation', '-w', folder, source], check=True)
    wheel = next(folder.glob('*.whl'))
    subprocess.run([*pip, 'install', '--no-deps', '--target', folder / 'site', wheel], check=True)
    return folder / 'site'


def in_package(installed, *command, cwd):
    environment = os.environ | (dict(PYTHONPATH=str(installed)) if installed else {})
    return subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_wheel_ships_configs_and_tools_and_no_top_level_folders_of_theirs(installed):
    top = {path.name for path in installed.iterdir() if path.is_dir() and not path.name.endswith('.dist-info')}
    assert top == {'backbones', 'mmdet_plugin', 'mmengine_plugin', 'mmseg_plugin'}
    for folder in ('configs', 'tools'):
        ours = {p.relative_to(ROOT / folder) for p in (ROOT / folder).rglob('*.py')}
        assert ours == {
            p.relative_to(installed / 'mmengine_plugin' / folder)
            for p in (installed / 'mmengine_plugin' / folder).rglob('*.py')
        }


@pytest.mark.parametrize(
    ('plugin', 'name'), [('mmdet_plugin', 'mask_rcnn_mambaout_tiny'), ('mmseg_plugin', 'upernet_mambaout_tiny')]
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


def test_an_unknown_config_is_answered_with_the_nearest(tmp_path):
    from backbones import UserError
    from mmengine_plugin import config

    with pytest.raises(UserError, match="did you mean 'mask_rcnn_mambaout_tiny'"):
        config('mask_rcnn_mambaout_tinny')


PROBES = sorted(path.stem for path in (ROOT / 'configs/mini').glob('probe_*.py'))


@pytest.mark.parametrize('name', PROBES)
def test_a_probe_sets_its_backbone_and_channels_alone(name):
    cfg, first = load(f'mini/{name}'), load('mini/probe_mambaout')
    model = build(cfg)
    (out_norm,) = model.backbone.out_norms.values()
    assert model.decode_head.in_channels == len(out_norm.weight)
    assert 150_000 < sum(p.numel() for p in model.backbone.parameters()) < 500_000
    for config in (cfg, first):
        config.model.pop('backbone')
        for key in ('in_channels', 'channels'):
            config.model.decode_head.pop(key)
        config.pop('width', None)
    assert cfg.to_dict() == first.to_dict()
