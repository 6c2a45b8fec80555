"""Other heads and schedules: each difference from upstream is in the audit, and all of them train."""

import math
import re
import sys
import types
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from mmengine_plugin.data.random_batch import random_batch
from mmengine_plugin.macs import count
from tests.conftest import ROOT, SWIN, ZOO
from tests.reduced_configs import reduced
from tests.test_recipes import ABSENT, differences, settings

PAGE = (ROOT / 'docs/recipes.md').read_text()
UPSTREAM = re.findall(r"^\| `(\w+)` \| (mmdet|mmseg)'s `([\w/.-]+)` \|$", PAGE, re.MULTILINE)


def audit(name: str) -> list[tuple[str, str, str]]:
    """The rows of the page's table for a config: patterns of a setting, of upstream's value and of the value here."""
    table = PAGE.split('<!-- tests/test_zoo.py reads this table -->')[1].split('<!-- end of the table -->')[0]
    rows = [[cell.strip().strip('`') for cell in line.strip('|').split('|')] for line in table.strip().splitlines()[2:]]
    return [(setting, theirs, here) for config, setting, theirs, here, _ in rows if config in (name, 'all')]


def matches(value: object, pattern: str) -> bool:
    return pattern == '*' or str('–' if value == ABSENT else value) == pattern


@pytest.mark.parametrize(('name', 'package', 'path'), UPSTREAM)
def test_every_difference_from_upstreams_config_is_in_the_audit(name, package, path, monkeypatch):
    for module in ('mmpretrain', 'mmpretrain.models'):  # mmdet's config of ConvNeXt imports it for its backbone
        monkeypatch.setitem(sys.modules, module, types.ModuleType(module))
    upstream = Path(find_spec(package).submodule_search_locations[0]) / f'.mim/configs/{path}.py'
    theirs, here = settings(upstream), settings(ROOT / f'configs/{name}.py')
    rows, used, unlisted = audit(name), set(), []
    for key in theirs | here:
        values = theirs.get(key, ABSENT), here.get(key, ABSENT)
        if values[0] != values[1]:
            found = {row for row in rows if fnmatchcase(key, row[0]) and all(map(matches, values, row[1:]))}
            used |= found
            unlisted += [] if found else [(key, *values)]
    assert not unlisted
    own = [row for row in rows if row not in audit('all')]
    assert set(own) <= used  # no row of this config's own is out of date


def test_the_audit_covers_every_family():
    assert {name for name, _, _ in UPSTREAM} == {name for name in ZOO if '_tiny' in name}
    assert not matches('SGD', 'AdamW') and not matches(ABSENT, 'AdamW') and matches(ABSENT, '–')


@pytest.mark.parametrize('name', [name for name in ZOO if '_tiny' not in name])
def test_other_sizes_differ_in_the_backbone_and_its_channels_only(name):
    size = 'small' if '_small' in name else 'base'
    found = differences(name, name.replace(size, 'tiny'))
    channels = {'model.neck.in_channels'} if size == 'base' else set()
    assert found == channels | {f'model.backbone.{k}' for k in ('arch', 'drop_path_rate', 'init_cfg.checkpoint')}
    backbone = Config.fromfile(ROOT / f'configs/{name}.py').model.backbone
    published = Config.fromfile(ROOT / f'configs/mask_rcnn_mambaout_{size}.py').model.backbone
    assert {k: v for k, v in backbone.items() if k != 'out_indices'} == published


@pytest.mark.parametrize('name', ZOO)
def test_a_config_is_short_and_expects_the_channels_of_its_backbone(name):
    lines = (ROOT / f'configs/{name}.py').read_text().splitlines()
    assert len(lines) <= 15
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        backbone = MODELS.build(cfg.model.backbone)
    part = next(part for part in ('neck', 'panoptic_head', 'decode_head') if part in cfg.model)
    assert list(cfg.model[part].in_channels) == [norm.weight.numel() for norm in backbone.out_norms.values()]


@pytest.mark.parametrize('name', [name for name in ZOO if '_tiny' in name])
def test_a_family_takes_one_training_step(name):
    cfg = reduced(name)
    init_default_scope(cfg.default_scope)
    preprocessor = cfg.model.data_preprocessor
    for setting in (preprocessor, *(preprocessor.get('batch_augments') or ())):
        if 'size' in setting:  # of the crops of segmentors, and of Mask2Former's padding
            setting.size = (64, 96)
    torch.manual_seed(0)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).train()
    model.init_weights()
    before = {k: v.clone() for k, v in model.backbone.named_parameters()}
    reached = set()
    for k, v in model.backbone.named_parameters():
        v.register_post_accumulate_grad_hook(lambda v, k=k: reached.add(k) if v.grad.isfinite().all() else None)
    task = 'detection' if cfg.default_scope == 'mmdet' else 'segmentation'
    batch = random_batch(task, images=2, height=64, width=96, classes=80)
    losses = model.train_step(batch, build_optim_wrapper(model, cfg.optim_wrapper))
    assert losses and all(math.isfinite(value.item()) for value in losses.values())
    assert reached == before.keys()
    assert any(not torch.equal(before[k], v) for k, v in model.backbone.named_parameters())


@pytest.mark.parametrize('name', [name for name in ZOO if name.startswith('mask2former')])
@pytest.mark.parametrize('arch', ['tiny', 'base'])
def test_mask2formers_rules_reach_every_parameter(name, arch):
    """As in Mask2Former's paper: a tenth of the rate for the backbone, no weight decay for norms and queries."""
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.update(arch=arch, init_cfg=None)
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    groups = {id(p): group for group in optimizer.param_groups for p in group['params']}
    norms = (torch.nn.LayerNorm, torch.nn.GroupNorm)
    exempt = {
        f'{m}.{k}' for m, module in model.named_modules() if isinstance(module, norms) for k in ('weight', 'bias')
    }
    exempt |= {k for k, _ in model.named_parameters() if re.search('query_(embed|feat)|level_embed', k)}
    for key, parameter in model.named_parameters():
        group = groups[id(parameter)]
        assert group['lr'] == pytest.approx(1e-5 if key.startswith('backbone.') else 1e-4), key
        assert group['weight_decay'] == (0.0 if key in exempt else 0.05), key
    assert any(key.startswith('backbone.') for key in exempt)


@pytest.mark.full_size
def test_cascade_mask_rcnn_with_swin_has_swins_published_size():
    """Swin's repository: Cascade Mask R-CNN with Swin-T has 86 M parameters and 745 G multiply-accumulates."""
    cfg = Config.fromfile(ROOT / 'configs/cascade_mask_rcnn_mambaout_tiny_3x.py')
    swin = Config.fromfile(SWIN['mask_rcnn']).model
    cfg.model.backbone, cfg.model.neck.in_channels = swin.backbone, swin.neck.in_channels
    cfg.model.backbone.init_cfg = None
    figures = count(cfg, 800, 1280)
    assert round(figures['params'] / 1e6) == 86 and round(figures['macs'] / 1e9) == 745
