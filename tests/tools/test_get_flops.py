"""``get_flops.py`` gives the figures that were published: the paper's, VMamba's, Swin's, ConvNeXt's and timm's."""

import csv
import json

import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch.utils.flop_counter import FlopCounterMode

from backbones import UserError
from backbones.mambaout import ARCHS
from mmengine_plugin.macs import count
from mmengine_plugin.memory import count_kept
from tests.conftest import ROOT, SWIN

TABLE = list(csv.DictReader((ROOT / 'docs/models.csv').open()))
SHAPES = dict(mask_rcnn=(800, 1280), upernet=(512, 2048))
HEADS = dict(COCO='mask_rcnn', ADE20K='upernet')  # of the paper, by data set


# one of each kind on every run, the others where there is time
QUICK = ['mask_rcnn_mambaout_tiny', 'upernet_mambaout_tiny', 'vmamba/mask_rcnn_vmamba_tiny_s1l8']
# published MACs that docs/models.md explains: of no model, and of longer scans
EXPLAINED = ['vmamba/mask_rcnn_vmamba_small_s2l15', 'local_mamba/mask_rcnn_local_vmamba_small']


@pytest.mark.parametrize(
    'row',
    [
        pytest.param(row, id=row['config'], marks=[] if row['config'] in QUICK else pytest.mark.full_size)
        for row in TABLE
    ],
)
def test_figures_are_the_published_ones_and_those_of_the_model_table(row):
    figures = count(Config.fromfile(ROOT / f'configs/{row["config"]}.py'), *SHAPES[HEADS[row['data']]])
    if row['published_macs']:  # not of what nobody trained on COCO and ADE20K
        exact = '/' not in row['config'] or row['config'].startswith('vmamba/')
        tolerance = dict(abs=1.0) if exact else dict(rel=0.01)
        same_macs = figures['macs'] / 1e9 == pytest.approx(int(row['published_macs']), **tolerance)
        same_params = round(figures['params'] / 1e6) == int(row['published_params'])
        assert (same_macs and same_params) == (row['config'] not in EXPLAINED)
    assert figures['uncounted'] == {}
    for key in ('params', 'macs'):  # the parts are the whole; the model table has what is counted
        assert sum(part[key] for part in figures['parts'].values()) == figures[key]
        assert float(row[key]) == pytest.approx(figures[key] / (1e6 if key == 'params' else 1e9), abs=0.006)


@pytest.mark.parametrize(
    ('name', 'variable', 'size', 'params', 'macs'),  # published, in millions and G
    [
        ('efficient_vmamba/mask_rcnn_efficient_vmamba', 'EFFICIENTVMAMBA_SIZE', 'tiny', 11, 60),
        *(
            pytest.param(*case, marks=pytest.mark.full_size)
            for case in (
                ('efficient_vmamba/upernet_efficient_vmamba', 'EFFICIENTVMAMBA_SIZE', 'tiny', 14, 230),
                ('efficient_vmamba/upernet_efficient_vmamba', 'EFFICIENTVMAMBA_SIZE', 'small', 29, 505),
                ('plain_mamba/upernet_plain_mamba', 'PLAINMAMBA_SIZE', 'l2', 55, 285),
                ('plain_mamba/upernet_plain_mamba', 'PLAINMAMBA_SIZE', 'l3', 81, 419),
            )
        ),
    ],
)
def test_figures_of_a_models_own_recipe_are_the_published_ones(name, variable, size, params, macs, monkeypatch):
    monkeypatch.setenv(variable, size)
    head = next(head for head in SHAPES if head in name)
    figures = count(Config.fromfile(ROOT / f'configs/{name}_official.py'), *SHAPES[head])
    assert abs(figures['params'] / 1e6 - params) < 1 and abs(figures['macs'] / 1e9 - macs) < 1.1


def test_vmambas_one_figure_that_differs_contradicts_its_others():
    """Small s2l15 is tiny s2l5 with 10 more blocks in stage 3: 79 G on 4000 cells, 81 G on UperNet's 4096."""
    width, state, rank = 384, 1, 24
    scanned = 2 * width
    block = 2 * width * scanned + 9 * scanned + 8 * width**2  # linear layers, convolution, MLP
    block += 4 * scanned * (2 * rank + 2 * state + 9 * state + 1) + 5 * (2 * width + scanned)  # four S6, three norms
    macs = {row['config']: row for row in TABLE}
    for head, cells in (('mask_rcnn', 4000), ('upernet', 4096)):
        tiny, small = (macs[f'vmamba/{head}_vmamba_{size}'] for size in ('tiny_s2l5', 'small_s2l15'))
        assert float(small['macs']) - float(tiny['macs']) == pytest.approx(10 * block * cells / 1e9, abs=0.011)
        difference = int(small['published_macs']) - int(tiny['published_macs'])
        assert (abs(difference - 10 * block * cells / 1e9) <= 1) == (head == 'upernet')


def test_parts_are_those_of_the_detector_and_of_the_segmentor(tool, tmp_path):
    expected = {
        'mini/mask_rcnn_mambaout_mini': ['backbone', 'neck', 'rpn_head', 'roi_head.bbox_head', 'roi_head.mask_head'],
        'mini/upernet_mambaout_mini': ['backbone', 'decode_head', 'auxiliary_head'],
    }
    for config, parts in expected.items():
        done = tool('get_flops.py', f'configs/{config}.py', '--shape', 160, 224, '--json', tmp_path / 'figures.json')
        assert done.returncode == 0, done.stdout
        figures = json.loads((tmp_path / 'figures.json').read_text())
        assert list(figures['parts']) == parts and figures['shape'] == [160, 224]
        for name, part in figures['parts'].items():
            assert f'{name:22}{part["params"] / 1e6:12.2f}{part["macs"] / 1e9:12.2f}\n' in done.stdout
    assert figures['parts']['auxiliary_head']['macs'] == 0 < figures['parts']['auxiliary_head']['params']


def test_memory_adds_what_a_training_step_keeps(tool, tmp_path):
    config, out = 'configs/mini/mask_rcnn_mambaout_mini.py', tmp_path / 'figures.json'
    done = tool('get_flops.py', config, '--shape', 160, 224, '--memory', '--json', out)
    assert done.returncode == 0, done.stdout
    figures = json.loads(out.read_text())
    kept = count_kept(Config.fromfile(ROOT / config), (160, 224))
    assert {key: figures[key] for key in kept} == kept and figures['training_shape'] == [160, 224]
    assert figures['kept_bytes'] == sum(figures['kept_by_part'].values()) > 0
    assert 'kept by a training step with one image of 160x224, fp32' in done.stdout
    for name, size in [*kept['kept_by_part'].items(), ('total', kept['kept_bytes'])]:
        assert f'{name:30}{size / 1e9:12.3f}\n' in done.stdout
    assert figures['parts'].keys() < figures['kept_by_part'].keys()


@pytest.mark.parametrize(
    ('head', 'params', 'macs'), [('mask_rcnn', 48, 267), pytest.param('upernet', 60, 945, marks=pytest.mark.full_size)]
)
def test_upstreams_own_swin_configs_give_swins_published_figures(head, params, macs):
    figures = count(Config.fromfile(SWIN[head]), *SHAPES[head])
    assert round(figures['params'] / 1e6) == params
    assert figures['macs'] / 1e9 == pytest.approx(macs, rel=0.01)


@pytest.mark.parametrize(('head', 'params', 'macs'), [('mask_rcnn', 48, 262), ('upernet', 60, 939)])
def test_convnext_gives_its_published_figures(head, params, macs):
    pytest.importorskip('mmpretrain')
    cfg = Config.fromfile(ROOT / f'configs/{head}_mambaout_tiny.py')
    cfg.model.backbone = dict(
        type='mmpretrain.ConvNeXt', arch='tiny', out_indices=[0, 1, 2, 3], gap_before_final_norm=False
    )
    widths = [96, 192, 384, 768]
    if head == 'mask_rcnn':
        cfg.model.neck.in_channels = widths
    else:
        cfg.model.decode_head.in_channels, cfg.model.auxiliary_head.in_channels = widths, widths[2]
    figures = count(cfg, *SHAPES[head])
    assert round(figures['params'] / 1e6) == params
    assert figures['macs'] / 1e9 == pytest.approx(macs, rel=0.01)


IMAGENET = dict(  # millions and G: the paper, Table 4, and where they were at hand the cards of timm's own
    femto=(7.3, 1.2),
    kobe=(9.1, 1.5),
    tiny=(26.5, 4.5),
    small=(48.5, 9.0),
    base=(84.8, 15.8),
    base_short_rw=(88.8, 16.3),
    base_tall_rw=(86.5, 16.1),
    base_plus_rw=(101.7, 19.2),
)


@pytest.mark.parametrize('arch', ARCHS)
def test_imagenet_figures_are_the_published_ones_and_timms(arch):
    cfg = Config.fromfile(ROOT / 'configs/imagenet_mambaout_tiny.py')
    cfg.model.backbone.arch = arch
    figures = count(cfg, 224, 224)
    twin = timm.create_model(f'mambaout_{arch}').eval()
    assert figures['params'] == sum(p.numel() for p in twin.parameters())
    with torch.no_grad(), FlopCounterMode(display=False) as counter:  # PyTorch's own: convolutions and products
        twin(torch.rand(1, 3, 224, 224))
    products = counter.get_total_flops() / 2
    assert products < figures['macs'] < 1.02 * products  # the rest is LayerNorm's
    if arch in IMAGENET:
        params, macs = IMAGENET[arch]
        assert figures['params'] / 1e6 == pytest.approx(params, abs=0.06)
        # some publish with the norms and some without
        assert products / 1e9 - 0.05 <= macs <= figures['macs'] / 1e9 + 0.05


@pytest.mark.parametrize(
    ('arch', 'causal', 'width'), [('small', False, 384), ('small', True, 384), ('base', False, 768)]
)
def test_blocks_of_vit_have_the_macs_of_the_papers_equation_6(arch, causal, width):
    figures = count(Config(dict(default_scope='mmengine', model=dict(type='ViT', arch=arch, causal=causal))), 208, 320)
    tokens = 13 * 20
    products = 12 * width**2 * tokens + 2 * width * tokens**2  # half of its FLOPs
    assert figures['parts']['blocks']['macs'] == 12 * (products + 2 * 5 * width * tokens)  # two LayerNorms
    assert figures['uncounted'] == {}


def test_blocks_of_vim_have_the_macs_of_their_definition():
    model = dict(type='Vim', arch=dict(dim=48, depth=5))
    figures = count(Config(dict(default_scope='mmengine', model=model)), 208, 320)
    width, inner, rank, state, tokens = 48, 96, 3, 16, 13 * 20
    scan = inner * 4 + inner * (rank + 2 * state) + rank * inner + inner * (9 * state + 1)  # one direction
    block = 3 * width + width * 2 * inner + 2 * scan + inner * width
    assert figures['parts']['blocks']['macs'] == 5 * tokens * block
    assert figures['uncounted'] == {}


def test_an_image_too_small_for_1000_proposals_is_refused():
    with pytest.raises(UserError, match='proposals, not 1000.*--shape'):
        count(Config.fromfile(ROOT / 'configs/mask_rcnn_mambaout_femto.py'), 64, 64)


@MODELS.register_module()
class Bilinear(torch.nn.Module):
    """Multiplies by weights in an operator that the tracer has no rule for."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(4, 4, 4))

    def forward(self, x):
        return torch.bilinear(x[0, 0, :, :4], x[0, 0, :, :4], self.weight, None)


def test_an_operator_without_a_rule_is_named_and_not_taken_for_nothing():
    figures = count(Config(dict(default_scope='mmengine', model=dict(type='Bilinear'))), 224, 224)
    assert figures['uncounted'] == {'aten::bilinear': 1}
