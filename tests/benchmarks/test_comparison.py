"""A comparison measures what its columns name, on models whose size, reach and growth are known."""

import argparse
import copy
import json
import os
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS
from torch import nn

from backbones.errors import UserError
from benchmarks.comparison import SETTINGS as SETTINGS_OF_PARTS
from benchmarks.comparison import Settings, build, compare, measure_receptive_fields, measure_step
from benchmarks.comparison_checks import check
from benchmarks.comparison_report import exponent, failures, plot, tables, write_report
from benchmarks.memory import OUT_OF_MEMORY, PEAKS, fresh_process, peak_bytes
from benchmarks.whole_models import train_step
from mmengine_plugin.data.random_batch import random_batch
from tests.conftest import DETECTION, ROOT, SEGMENTATION

SETTINGS = Settings(shape=(2, 64, 96), rounds=1, sizes=[32, 64], stride=16, field_size=64, images=[])
PARTS = list(SETTINGS_OF_PARTS)
PAGE = ROOT / 'docs/comparison.md'


@MODELS.register_module()
class PooledBackbone(BaseModule):
    """A map at stride 16 from operators whose memory is known.

    Args:
        tokens: ``'local'`` for the mean of each cell, ``'pairs'`` for a matrix of all pairs of cells, or ``'none'``
            for an error that says that memory is lacking.
        drop_path_rate: As of other backbones; it must be 0 in a training step.
        ballast: Number of further weights.
    """

    def __init__(self, tokens: str = 'local', drop_path_rate: float = 0.5, ballast: int = 0) -> None:
        super().__init__()
        self.ballast = nn.Parameter(torch.zeros(ballast))
        self.tokens = tokens
        self.drop_path_rate = drop_path_rate
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x):
        assert not self.training or self.drop_path_rate == 0
        kept = (x * self.weight).exp()  # x is kept for the gradient of the weight, the exponentials for their own
        pooled = nn.functional.avg_pool2d(kept, 16) + self.ballast.sum()
        if self.tokens == 'pairs':
            cells = pooled.flatten(2).transpose(1, 2)
            pairs = cells @ cells.transpose(1, 2)
            pooled = pooled + pairs.mean()
        if self.tokens == 'none':
            raise MemoryError
        return (pooled,)


def segmentor(**backbone: object) -> Config:
    head = dict(type='FCNHead', in_channels=3, in_index=0, channels=3, num_classes=3, num_convs=0, concat_input=False)
    model = dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', mean=[0] * 3, std=[255] * 3, size=(32, 32)),
        backbone=dict(type='PooledBackbone', drop_path_rate=0.5, **backbone),
        decode_head=head,
        test_cfg=dict(mode='whole'),
    )
    optimizer = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
    imports = dict(imports=['mmseg_plugin', __name__])  # memory is measured in processes of their own
    return Config(dict(default_scope='mmseg', model=model, optim_wrapper=optimizer, custom_imports=imports))


@pytest.fixture(scope='module', autouse=True)
def _plugins():
    """The operators that mmseg needs, as its configs import them."""
    __import__('mmseg_plugin')


def run(configs: dict[str, Config], parts: list[str], settings: Settings = SETTINGS) -> tuple[dict, list[dict]]:
    results = dict(parts={}, models={name: {} for name in configs})
    written: list[dict] = []
    compare(configs, {}, parts, settings, results, lambda found: written.append(copy.deepcopy(found)))
    return results, written


def test_a_figure_that_grows_with_the_square_of_the_pixels_has_the_power_2():
    assert exponent({size: 5.0 * size**4 for size in (512, 1024, 2048)}) == pytest.approx(2)
    assert exponent({size: 5.0 * size**2 for size in (512, 2048)}) == pytest.approx(1)
    assert exponent({512: 1.0}) is None and exponent({}) is None


@pytest.mark.skipif(not PEAKS, reason='peaks are measured under Linux alone')
def test_pairs_of_cells_take_memory_by_the_square_of_the_pixels_and_cells_alone_in_proportion():
    settings = Settings((1, 32, 32), 1, [1024, 1280, 1536], 16, 64, [])
    results, _ = run(dict(pairs=segmentor(tokens='pairs'), local=segmentor()), ['growth'], settings)
    found = {name: model['growth'] for name, model in results['models'].items()}
    largest = {name: growth['1536']['peak_gib'] * 2**30 for name, growth in found.items()}
    # all pairs of 96 x 96 cells beside the exponentials of the image; the weighted image beside the exponentials
    image, pairs = 12 * 1536**2, 4 * 96**4
    assert pairs < largest['pairs'] < pairs + 4 * image
    assert image < largest['local'] < 4 * image < pairs
    powers = {
        name: exponent({int(s): row['peak_gib'] for s, row in growth.items() if s.isdecimal()})
        for name, growth in found.items()
    }
    assert 0.7 < powers['local'] < 1.3 < powers['pairs'] < 2.2


def peaks_of_steps(cfg: Config, images: int, height: int, width: int) -> list[int]:
    """The peaks of the first three training steps, in a process of its own."""
    __import__('mmseg_plugin')
    model = build(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    model.data_preprocessor.size = height, width
    batch = random_batch('segmentation', images, height, width, 3)
    return [peak_bytes(lambda: train_step(model, optimizer, batch)) for _ in range(3)]


@pytest.mark.skipif(not PEAKS, reason='peaks are measured under Linux alone')
def test_the_peak_of_a_training_step_is_that_of_a_step_whose_optimizer_has_its_states():
    weights = 2**23
    cfg = segmentor(ballast=weights)
    cfg.optim_wrapper.optimizer = dict(type='AdamW', lr=0.1)
    results, _ = run(dict(a=cfg), ['step'], Settings((2, 1024, 1024), 1, [], 16, 64, []))
    with fresh_process() as call:
        first, second, third = call(peaks_of_steps, cfg, 2, 1024, 1024)
    assert results['models']['a']['step']['step']['peak_gib'] * 2**30 == pytest.approx(second, rel=0.05)
    assert second == pytest.approx(third, rel=0.05) and first < second - 4 * weights


def test_a_backbone_keeps_the_bytes_that_its_operators_need():
    kept, step, inference = (figures for _, figures in measure_step(dict(a=segmentor()), SETTINGS))
    assert PEAKS == ('peak_gib' in kept['step']), 'peaks are known before anything is timed'
    assert len(step['step']['seconds']) == len(inference['inference']['seconds']) == 1
    assert kept['kept_gib'] * 2**30 == 2 * 4 * (2 * 3 * 64 * 96)  # x and its exponentials, in fp32


def test_drop_path_is_off_in_what_is_measured():
    assert build(segmentor()).backbone.drop_path_rate == 0
    assert MODELS.build(segmentor().model.backbone).drop_path_rate == 0.5


def test_what_fails_is_named_and_everything_else_is_measured_and_written(capsys, tmp_path):
    configs = dict(
        large=segmentor(tokens='none'), broken=segmentor(size=3), fine=segmentor(), pairs=segmentor(tokens='pairs')
    )
    results, written = run(configs, PARTS)
    errors = {
        name: {k: v for part in PARTS for k, v in model[part]['errors'].items()}
        for name, model in results['models'].items()
    }
    assert errors['large'] == dict.fromkeys(['size', 'step', 'inference', 'kept', 'random', '32'], OUT_OF_MEMORY)
    assert set(errors['broken']) == {'size', 'build', 'random', 'growth'}
    assert all("unexpected keyword argument 'size'" in reason for reason in errors['broken'].values())
    assert errors['fine'] == errors['pairs'] == {}
    fine = results['models']['fine']
    assert fine['size']['params'] == 1 + 3 * 3 + 3  # of the backbone, and of a convolution of 1x1 and its bias
    assert fine['step']['step']['ratio'] == 1 and set(fine['growth']) == {'32', '64', 'errors'}
    assert fine['receptive']['reach'] == dict(left=0, right=15, up=0, down=15)
    assert fine['receptive']['precision'] == 'float64' and not fine['receptive']['whole_image']
    assert results['models']['pairs']['receptive']['whole_image']
    assert failures(results, ['growth']) == [f'broken, growth: {errors["broken"]["growth"]}']
    assert len(written) > 10 and 'size' in written[0]['models']['large'] and 'growth' not in written[0]['parts']

    text = tables(results)
    large, broken, row, _ = text.splitlines()[2:6]
    assert large.startswith('| `large` | out of memory | out of memory |') and '| failed |' in broken
    assert '| 1.00 (1.00 to 1.00) |' in row and '| 0 / 15 / 0 / 15 |' in row
    assert 'times are ratios to those of `fine`' in text and '- large, kept: out of memory' in text
    assert '| `large` | out of memory |  |' in text  # growth: no larger size was tried
    found = results['models']['fine']['growth']
    found['errors'] = {str(max(SETTINGS.sizes) * 2): OUT_OF_MEMORY}
    assert f' (up to {max(SETTINGS.sizes)}) |' in tables(results) and ' (up to ' not in text
    found['errors'] = {}
    write_report(results, tmp_path / 'out')
    plot(results['models'], tmp_path / 'out.png')
    assert json.loads((tmp_path / 'out.json').read_text()) == json.loads(json.dumps(results))
    assert (tmp_path / 'out.png').stat().st_size > 10_000 and (tmp_path / 'out.md').read_text() == text


def test_a_checkpoint_gives_a_second_field_and_a_wrong_one_is_an_error(tmp_path):
    cfg = Config.fromfile(SEGMENTATION)
    model = build(cfg)
    fields = {}
    for name, state in (('same', model.state_dict()), ('other', {'a': torch.zeros(1)})):
        torch.save(dict(state_dict=state), tmp_path / f'{name}.pth')
        for _, figures in measure_receptive_fields(dict(a=cfg), dict(a=str(tmp_path / f'{name}.pth')), SETTINGS):
            fields.setdefault(name, {}).update(figures)
    same = fields['same']
    assert same['trained'] == dict(checkpoint='same.pth', **same['random'])  # the seed makes the same random weights
    for parameter in model.backbone.stages[2].parameters():
        parameter.data.mul_(3)
    torch.save(model.state_dict(), tmp_path / 'other.pth')
    *_, (_, found) = measure_receptive_fields(dict(a=cfg), dict(a=str(tmp_path / 'other.pth')), SETTINGS)
    assert found['trained']['shares'] != same['random']['shares']
    assert 'other.pth' in fields['other']['errors']['trained'] and 'trained' not in fields['other']


def arguments(out: Path, *configs: object, **others: object) -> argparse.Namespace:
    values = dict(parts=PARTS, shape=None, rounds=1, stride=16, field_size=64)
    values |= dict(images=None, checkpoints=None, sizes=[64], scores=None)
    return argparse.Namespace(out=out, configs=[str(config) for config in configs], **(values | others))


@pytest.mark.parametrize(
    ('others', 'message'),
    [
        (dict(configs=[DETECTION, 'configs/mini/none.py']), 'config configs/mini/none.py does not exist'),
        (dict(configs=[DETECTION, DETECTION]), 'is named twice: name each config once'),
        (dict(configs=[DETECTION, SEGMENTATION]), 'say nothing about backbones. Compare configs with one kind of head'),
        (dict(configs=[DETECTION, ROOT / 'configs/mini/faster_rcnn_mambaout_mini.py']), 'is mmdet FasterRCNN, and '),
        (dict(configs=[ROOT / 'configs/imagenet_mambaout_tiny.py']), 'only models of mmdet and mmseg'),
        (dict(shape='800x1280'), '--shape 800x1280: write three numbers, such as 2x800x1280'),
        (dict(configs=[SEGMENTATION], shape='1x64x64'), 'UperNet trains on 2 images or more'),
        (dict(field_size=100), '--field-size 100 must be a multiple of --stride 16 and of 32'),
        (dict(checkpoints=['-', '-']), '--checkpoints has 2 files for 1 configs: write one for each config'),
        (dict(checkpoints=['none.pth']), '--checkpoints: none.pth is not there'),
        (dict(checkpoints=['-'], parts=['growth']), None),
        (dict(checkpoints=[SEGMENTATION], parts=['growth']), 'are of use to the part receptive alone'),
        (dict(scores=[SEGMENTATION]), 'holds no scores: tools/test.py CONFIG CHECKPOINT --json'),
        (dict(images=ROOT / 'configs'), 'holds no image: name a folder of images'),
        (dict(images=ROOT / 'none'), 'is not a folder'),
        (dict(out=DETECTION), 'would be the name of the results: name OUT first, and then the configs'),
        (dict(configs=[DETECTION, SEGMENTATION], parts=['receptive', 'growth']), None),
    ],
)
def test_arguments_are_checked_before_anything_is_measured(others, message, tmp_path):
    args = arguments(tmp_path / 'out', *others.get('configs', [DETECTION]))
    for name, value in others.items():
        setattr(args, name, [str(v) for v in value] if isinstance(value, list) else value)
    if message is None:
        assert list(check(args)[0])[0] == 'mask_rcnn_mambaout_mini'
        return
    with pytest.raises(UserError) as raised:
        check(args)
    assert message in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_later_run_keeps_the_parts_and_scores_that_it_does_not_measure(tmp_path):
    scores = tmp_path / 'scores.json'
    scores.write_text('{"coco/bbox_mAP": 0.451, "coco/segm_mAP": 0.41, "coco/bbox_mAP_50": 0.6}')
    configs, _, _, results = check(arguments(tmp_path / 'out', DETECTION, scores=[str(scores)]))
    results['parts']['size'] = dict(command='first')
    write = dict(results, models={name: dict(found, size=dict(params=1)) for name, found in results['models'].items()})
    (tmp_path / 'out.json').write_text(json.dumps(write))
    _, _, _, again = check(arguments(tmp_path / 'out', DETECTION, parts=['growth']))
    (model,) = again['models'].values()
    assert again['parts'] == dict(size=dict(command='first')) and model['size'] == dict(params=1)
    assert model['scores']['coco/bbox_mAP'] == 0.451
    assert '| bbox_mAP 0.451, segm_mAP 0.41 |' in tables(dict(parts={}, models=results['models']))
    with pytest.raises(
        UserError, match=f'compares {DETECTION} .*: name the same configs in the same order, or another OUT'
    ):
        check(arguments(tmp_path / 'out', SEGMENTATION))
    relative = arguments(tmp_path / 'out', os.path.relpath(DETECTION))
    assert check(relative)[3]['models'] == again['models']
    namesake = tmp_path / Path(DETECTION).name
    namesake.write_text(f'_base_ = {str(DETECTION)!r}')
    with pytest.raises(UserError, match='name the same configs'):
        check(arguments(tmp_path / 'out', namesake))
    (tmp_path / 'out.json').write_text('[]')
    with pytest.raises(UserError, match='is not the result of a comparison by this version'):
        check(arguments(tmp_path / 'out', DETECTION))


def test_heads_that_differ_are_named_below_the_table(tmp_path):
    base, other, same = SEGMENTATION, tmp_path / 'wide.py', tmp_path / 'same.py'
    other.write_text(f'_base_ = {str(base)!r}\nmodel = dict(decode_head=dict(channels=99))')
    same.write_text(f'_base_ = {str(base)!r}\nmodel = dict(backbone=dict(drop_path_rate=0.5))')
    _, _, _, results = check(arguments(tmp_path / 'out', base, other, same))
    channels = Config.fromfile(base).model.decode_head.channels
    assert results['heads'] == dict(wide=[f'model.decode_head.channels {channels} -> 99'])
    _, _, _, results = check(arguments(tmp_path / 'fields', DETECTION, SEGMENTATION, parts=['receptive']))
    assert 'heads' not in results  # which are not measured
    _, _, _, results = check(arguments(tmp_path / 'out', base, other, same))
    assert f'- `wide` differs by more than its backbone: model.decode_head.channels {channels} -> 99' in tables(results)


def test_the_tables_of_the_page_are_those_of_the_runs():
    tables_of_runs = list((ROOT / 'benchmarks/results').glob('*comparison.md'))
    assert len(tables_of_runs) == 2
    for measured in tables_of_runs:
        assert measured.read_text() in PAGE.read_text()
