"""Layer-wise decay of the learning rate: the factor of each parameter of each backbone."""

import copy
import re
from importlib import import_module

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from backbones import UserError
from backbones.base import Backbone
from backbones.mambaout import ARCHS
from mmengine_plugin.cli.config_checks import check_constructor
from tests.backbones.test_backbones import SMALL, STEMS
from tests.mmengine_plugin.engine.small_recipes import recipe

PYRAMID = dict(depths=(1, 2, 7, 1), dims=(4, 8, 8, 8))
VIT = dict(dim=8, depth=5, heads=2)
# the depth of the parameters that match a pattern; all others are at the last depth
IN_PYRAMID = {
    r'stem\.': 0,
    r'stages\.0\.': 1,
    r'stages\.1\.': 2,
    r'stages\.2\.(downsample|blocks\.[0123])\.': 3,
    r'stages\.2\.blocks\.[456]\.': 4,
    r'stages\.3\.': 5,
}
IN_VIT = {r'(patch_embed\.|pos_embed)': 0, **{rf'blocks\.{i}\.': i + 1 for i in range(5)}}
BACKBONES = {
    'MambaOut': (dict(arch=PYRAMID), IN_PYRAMID, 7),
    'MambaOut with SSM': (dict(type='MambaOut', arch=PYRAMID, ssm=['rows']), IN_PYRAMID, 7),
    'VMamba': (dict(arch=PYRAMID), IN_PYRAMID, 7),
    'ViT': (dict(arch=VIT), IN_VIT, 7),
}


class Model(nn.Module):
    """A backbone and a head."""

    def __init__(self, backbone: dict) -> None:
        super().__init__()
        self.backbone = MODELS.build(backbone)
        self.head = nn.Linear(8, 2)


def learning_rates(model: nn.Module, rules: dict) -> dict[str, tuple[float, float]]:
    """The learning rate and the weight decay of each parameter that the optimizer has."""
    settings = dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.05),
        constructor='LayerDecayOptimWrapperConstructor',
        paramwise_cfg=rules,
    )
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = build_optim_wrapper(model, settings).optimizer.param_groups
    return {names[p]: (group['lr'], group['weight_decay']) for group in groups for p in group['params']}


@pytest.mark.parametrize('name', BACKBONES)
def test_each_parameter_has_the_factor_of_its_layer(name):
    settings, depths, count = BACKBONES[name]
    model = Model(dict(type=name) | settings)
    rates = learning_rates(model, dict(decay_rate=0.5))
    assert rates.keys() == dict(model.named_parameters()).keys()
    for parameter, (rate, _) in rates.items():
        found = [depth for pattern, depth in depths.items() if re.match(rf'backbone\.{pattern}', parameter)]
        is_new = name == 'MambaOut with SSM' and '.s6.' in parameter  # no published weights hold it
        depth = found[0] if found and not is_new else count - 1
        assert rate == pytest.approx(0.1 * 0.5 ** (count - 1 - depth)), parameter
    assert rates['head.weight'][0] == rates['backbone.out_norms.0.weight'][0] == 0.1
    assert len({rate for rate, _ in rates.values()}) == count


EVERY_BACKBONE = [dict(type=name, **small) for name, variants in SMALL.items() for small in variants]
EVERY_BACKBONE += [dict(type='MambaOut', arch=arch) for arch in ARCHS]


@pytest.mark.parametrize('settings', EVERY_BACKBONE, ids=lambda settings: f'{settings["type"]}-{settings["arch"]}'[:40])
def test_depths_grow_from_the_stem_to_the_last_block_of_every_backbone(settings):
    with torch.device('meta'):
        backbone: Backbone = MODELS.build(settings)
    found: dict[tuple[int, ...], set[int]] = {}  # depths by the place in the backbone: stage and block, or block
    for name, _ in backbone.named_parameters():
        depth, count = backbone.get_layer_depth(f'backbone.{name}', 'backbone.')
        if name.startswith(('out_norms.', 'rescale.')) or '.s6.' in name and settings['type'] == 'MambaOut':
            assert depth == count - 1, name  # pretrained weights may lack it
            continue
        parts = name.split('.')
        place = (-1,) if name.startswith(STEMS) else tuple(int(part) for part in parts[:4] if part.isdecimal())
        if parts[0] == 'stages' and parts[2] == 'downsample':
            place = (int(parts[1]), -1)
        elif parts[0] == 'blocks':
            place = place[:1]
        found.setdefault(place, set()).add(depth)
    depths = [found[place] for place in sorted(found)]
    assert all(len(several) == 1 for several in depths)  # the parameters of a block have one learning rate
    line = [depth for (depth,) in depths]
    assert line == sorted(line) and set(line) == set(range(count - 1)) and line[0] == 0
    assert found[(-1,)] == {0}
    assert backbone.get_layer_depth('neck.convs.0.weight', 'backbone.') == (count - 1, count)


class ConvNeXtNames(nn.Module):
    """Parameters under the names that they have in ConvNeXt. mmdet and mmseg look for the name of the class."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        for ours, parameter in backbone.named_parameters():
            theirs = f'.{ours}'.replace('.stem.', '.downsample_layers.0.').replace('.blocks.', '.')[1:]
            theirs = re.sub(r'stages\.(\d)\.downsample', r'downsample_layers.\1', theirs)
            *path, name = re.sub(r'out_norms\.(\d)\.', r'norm\1.', theirs).split('.')
            part = self
            for step in path:
                if step not in dict(part.named_children()):
                    part.add_module(step, nn.Module())
                part = part.get_submodule(step)
            part.register_parameter(name, parameter)


@pytest.mark.parametrize(
    ('size', 'layers', 'scope'), [('tiny', 6, 'mmdet'), ('small', 12, 'mmseg'), ('base', 12, 'mmdet')]
)
def test_the_rates_of_mambaout_are_those_of_convnext_in_mmdet_and_in_mmseg(size, layers, scope):
    """mmdet's and mmseg's constructors, given MambaOut's parameters under ConvNeXt's names."""
    module = import_module(f'{scope}.engine.optimizers.layer_decay_optimizer_constructor')
    model = nn.Module()
    with torch.device('meta'):
        model.backbone = MODELS.build(dict(type='MambaOut', arch=size))
        model.head = nn.Linear(8, 2)
    rules = dict(decay_rate=0.7, norm_decay_mult=0.0, bias_decay_mult=0.0)
    ours, others = learning_rates(model, rules), learning_rates(model, rules | dict(decay_rate=0.8))
    names = {parameter: name for name, parameter in model.named_parameters()}
    model.backbone = ConvNeXtNames(model.backbone)
    optimizer = dict(optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.05))
    constructor = module.LearningRateDecayOptimizerConstructor(optimizer, dict(decay_rate=0.7, num_layers=layers))
    theirs = {
        names[p]: (pytest.approx(group['lr']), group['weight_decay'])
        for group in constructor(model).optimizer.param_groups
        for p in group['params']
    }
    assert ours == theirs != others
    assert len({rate for rate, _ in ours.values()}) == layers + 2


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_upstreams_constructor_ends_before_the_first_step_with_our_backbones(scope):
    """Their own programs know neither ours nor what to type; the programs of this project do."""
    module = import_module(f'{scope}.engine.optimizers.layer_decay_optimizer_constructor')
    optimizer = dict(optimizer=dict(type='AdamW', lr=0.1, weight_decay=0.05))
    for name, error in (('MambaOut', NotImplementedError), ('S4NDConvNeXt', ValueError)):  # the latter's name fits
        with torch.device('meta'):
            model = Model(dict(type=name, arch=PYRAMID))
        constructor = module.LearningRateDecayOptimizerConstructor(optimizer, dict(decay_rate=0.7, num_layers=6))
        with pytest.raises(error):
            constructor(model)


def test_the_layers_of_vit_are_those_of_beit_in_mmseg():
    from mmseg.engine.optimizers import layer_decay_optimizer_constructor as mmsegs

    with torch.device('meta'):
        backbone = MODELS.build(dict(type='ViT', arch='small'))
    for name, _ in backbone.named_parameters(prefix='backbone'):
        expected = mmsegs.get_layer_id_for_vit(name.replace('.blocks.', '.layers.'), 14)
        assert backbone.get_layer_depth(name, 'backbone.') == (expected, 14), name


def test_mmengines_rules_hold_and_frozen_parameters_are_left_out():
    model = Model(dict(type='MambaOut', arch=PYRAMID, frozen_stages=1))
    rules = dict(decay_rate=0.5, norm_decay_mult=0.0, custom_keys={'head': dict(lr_mult=3.0)})
    rates = learning_rates(model, rules)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert rates.keys() == trained and not any(name.startswith('backbone.stem') for name in rates)
    assert rates['head.weight'] == (pytest.approx(0.3), 0.05)
    assert rates['backbone.out_norms.1.weight'] == (0.1, 0.0)


def test_a_rate_of_1_changes_nothing():
    rates = learning_rates(Model(dict(type='MambaOut', arch=PYRAMID)), dict(decay_rate=1.0))
    assert {rate for rate, _ in rates.values()} == {0.1}


@pytest.mark.parametrize(
    ('rules', 'message'),
    [
        (dict(), 'decay_rate is None'),
        (dict(decay_rate=1.5), 'decay_rate is 1.5'),
        (dict(decay_rate=0.9, decay_type='stage_wise'), 'knows layer_wise only'),
        (dict(decay_rate=0.9, num_layers=12), 'num_layers is 12, but MambaOut has 5 layers besides the stem'),
    ],
)
def test_rules_that_cannot_be_followed_are_refused(rules, message):
    with pytest.raises(UserError, match=message):
        learning_rates(Model(dict(type='MambaOut', arch=PYRAMID)), rules)


def test_the_number_of_layers_may_be_written_if_it_is_right():
    model = Model(dict(type='MambaOut', arch=PYRAMID))
    rules = dict(decay_rate=0.9, num_layers=5, decay_type='layer_wise')
    assert learning_rates(model, rules) == learning_rates(model, dict(decay_rate=0.9))


def test_a_model_whose_backbone_has_no_layers_is_refused():
    with pytest.raises(UserError, match='no part of the model has get_layer_depth'):
        learning_rates(nn.Linear(2, 2), dict(decay_rate=0.9))


@pytest.mark.parametrize(
    ('name', 'rules'),
    [
        ('LearningRateDecayOptimizerConstructor', dict(decay_rate=0.9, decay_type='layer_wise', num_layers=6)),
        ('mmseg.LayerDecayOptimizerConstructor', dict(layer_decay_rate=0.9, num_layers=12)),  # in the configs of BEiT
    ],
)
@pytest.mark.parametrize(
    ('backbone', 'message'),  # mmdet would take the second one for a ConvNeXt
    [('MambaOut', 'does not know MambaOut'), ('S4NDConvNeXt', 'does not know S4NDConvNeXt')],
)
def test_upstreams_constructor_is_answered_with_ours(name, rules, backbone, message):
    cfg = Config(
        dict(model=dict(backbone=dict(type=backbone)), optim_wrapper=dict(constructor=name, paramwise_cfg=rules))
    )
    with pytest.raises(UserError, match=rf'{message}: set .*LayerDecayOptimWrapperConstructor.*=0\.9'):
        check_constructor(cfg)
    cfg.model.backbone = dict(type='ResNet')
    check_constructor(cfg)


def test_a_detector_is_built_with_the_factors_of_its_backbone():
    cfg = copy.deepcopy(recipe('detection'))
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    cfg.optim_wrapper.update(
        type='OptimWrapper', constructor='LayerDecayOptimWrapperConstructor', paramwise_cfg=dict(decay_rate=0.5)
    )
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    rates = {group['lr'] for group in groups}
    lr = cfg.optim_wrapper.optimizer.lr
    assert sorted(rates) == pytest.approx([lr * 0.5**i for i in reversed(range(6))])
    assert len(groups) == len(list(model.parameters()))
