"""What would end a run late is refused before its first step. Without the hook, the same runs do fail late."""

import copy
import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from mmseg.evaluation import IoUMetric
from pycocotools import mask as rle
from pycocotools.coco import COCO
from torch.utils.data import DataLoader

from backbones import UserError
from mmdet_plugin.scores.coco_metric import CocoMetric, FastCocoMetric
from mmengine_plugin.checks.annotation_files import check_annotation_file
from mmengine_plugin.checks.batch_norms import check_batch_norms
from mmengine_plugin.checks.map_channels import check_map_channels
from mmengine_plugin.checks.run_part import RunPart
from mmengine_plugin.checks.scores import score_names
from mmengine_plugin.cli.configs import refuse_other_runners
from tests.conftest import CONFIGS, DETECTION, ROOT
from tests.mmengine_plugin.engine.runs import train_in_a_process
from tests.mmengine_plugin.engine.small_recipes import recipe, settings
from tests.test_bad_input import child, refuses

STOP = dict(type='Send', number=signal.SIGKILL, moment='before_train', iteration=0)  # after all checks


@pytest.fixture
def run(mini_data, monkeypatch, tmp_path):
    """A function that trains six iterations and returns the exit code and the output.

    It takes the task and the loop of ``small_recipes.settings``, options of the config, and whether the hook is there.
    """
    monkeypatch.chdir(mini_data)
    runs = iter(range(10))

    def train(task: str, loop: str, options: dict, checked: bool = True, stop: bool = False) -> tuple[int, str]:
        name = f'run{next(runs)}'
        cfg = settings(tmp_path / name, task, loop, 'fp32', 'plain')
        for key, value in copy.deepcopy(options).items():
            if '.' in key:
                cfg.merge_from_dict({key: value})
            else:
                cfg[key] = value
        if not checked:
            cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook['type'] != 'CheckRunHook']
        if stop:
            cfg.custom_hooks.append(STOP)
        return train_in_a_process(tmp_path / f'{name}.log', cfg)

    return train


def assert_refused_early(result: tuple[int, str], *words: str) -> None:
    """Check that a run ended with an error before its first iteration, and that the message has the words."""
    code, output = result
    assert code == 1 and 'UserError: ' in output, output
    assert 'Iter(train)' not in output and 'Epoch(train)' not in output, output
    message = output[output.rindex('UserError: ') :]
    for word in words:
        assert word in message, message


def assert_failed_late(result: tuple[int, str], *words: str) -> None:
    """Check that a run ended with an error of upstream after it had begun."""
    code, output = result
    assert code == 1 and 'UserError: ' not in output, output
    for word in words:
        assert word in output, output


# --- annotation files -------------------------------------------------------------------------------------------------

OTHER_FILE = {'val_evaluator.ann_file': 'data/mini/coco/annotations/instances_train2017.json'}


def test_a_metric_on_other_annotations_than_the_data_is_refused(run):
    """mmdet's issue 11739."""
    result = run('detection', 'epochs', OTHER_FILE)
    words = ['val_evaluator.ann_file is data/mini/coco/annotations/instances_train2017.json', 'instances_val2017.json']
    assert_refused_early(result, *words, 'set val_evaluator.ann_file=data/mini/coco/annotations/instances_val2017.json')
    assert_failed_late(run('detection', 'epochs', OTHER_FILE, checked=False), 'Epoch(train)', 'AssertionError')


def test_a_test_on_other_annotations_than_the_data_is_refused(tool, mini_data, tmp_path):
    cfg = Config.fromfile(DETECTION)
    init_default_scope(cfg.default_scope)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict(), meta={}), tmp_path / 'model.pth')
    path = child(tmp_path, 'test_evaluator = ' + repr(dict(ann_file=OTHER_FILE['val_evaluator.ann_file'])))
    # the metric for the predictions makes a list of the evaluator
    arguments = [path, tmp_path / 'model.pth', '--work-dir', tmp_path / 'w', '--out', tmp_path / 'out.pkl']
    refuses(tool('test.py', *arguments, cwd=mini_data), 'test_evaluator.0.ann_file is data/mini', 'val2017.json')


def validation(cfg: Config, dataset: object) -> RunPart:
    """The validation of a run, whose model does not matter."""
    return RunPart(cfg, torch.nn.Identity(), 'val', dataset=dataset)


def test_one_file_under_two_names_is_accepted(mini_data, tmp_path, monkeypatch):
    monkeypatch.chdir(mini_data)
    file = mini_data / 'data/mini/coco/annotations/instances_val2017.json'
    (tmp_path / 'link.json').symlink_to(file)
    shutil.copy(file, tmp_path / 'other.json')
    dataset = BaseDataElement(metainfo=dict(ann_file='data/mini/coco/annotations/instances_val2017.json'))
    for name, accepted in (('link.json', True), ('other.json', False)):
        cfg = Config(dict(val_evaluator=[dict(type='CocoMetric'), dict(ann_file=str(tmp_path / name))]))
        if accepted:
            check_annotation_file(validation(cfg, dataset))
        else:
            with pytest.raises(UserError, match=r'val_evaluator\.1\.ann_file is .*other\.json'):
                check_annotation_file(validation(cfg, dataset))
        check_annotation_file(validation(cfg, BaseDataElement()))  # such as a concatenation of data sets


def test_one_of_several_metrics_may_read_a_file_of_its_own():
    """mmdet's configs for panoptic segmentation score boxes and masks as well."""
    cfg = Config(dict(val_evaluator=[dict(ann_file='panoptic.json'), dict(ann_file='instances.json')]))
    check_annotation_file(validation(cfg, BaseDataElement(metainfo=dict(ann_file='panoptic.json'))))
    with pytest.raises(UserError, match=r'val_evaluator\.0\.ann_file is panoptic\.json'):
        check_annotation_file(validation(cfg, BaseDataElement(metainfo=dict(ann_file='another.json'))))


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('task', 'name', 'nearest'), [('detection', 'coco/bbox_map', 'coco/bbox_mAP'), ('segmentation', 'miou', 'mIoU')]
)
def test_choosing_checkpoints_by_a_score_that_does_not_exist_is_refused(run, task, name, nearest):
    """mmengine's issue 1587."""
    options = {'default_hooks.checkpoint.save_best': name}
    words = [f"default_hooks.checkpoint.save_best is '{name}'", f"(did you mean '{nearest}'?)"]
    assert_refused_early(run(task, 'iterations', options), *words)
    options |= {'default_hooks.checkpoint.type': 'CheckpointHook'}
    assert_refused_early(run(task, 'iterations', options), *words)
    late = run(task, 'iterations', options, checked=False)
    assert_failed_late(late, 'Iter(train)', 'Iter(val)', f"KeyError: '{name}'")


def test_choosing_checkpoints_by_two_scores_or_by_the_first_one_is_accepted(run):
    for value in ('auto', ['mIoU', 'aAcc']):
        code, output = run('segmentation', 'iterations', {'default_hooks.checkpoint.save_best': value})
        assert code == 0 and 'is saved to' in output, output


def test_scores_of_several_data_sets_have_names_of_their_own(run):
    part = dict(type='IoUMetric', iou_metrics=['mIoU'], prefix='first')
    evaluator = dict(type='MultiDatasetsEvaluator', metrics=[part], dataset_prefixes=['first'])
    options = {'val_evaluator': evaluator, 'default_hooks.checkpoint.save_best': 'first/first/mIoU'}
    code, output = run('segmentation', 'iterations', options, stop=True)
    assert code == -signal.SIGKILL, output


@pytest.mark.parametrize('strict', [True, False])
def test_stopping_by_a_score_that_does_not_exist_is_refused(run, strict):
    hook = dict(type='EarlyStoppingHook', monitor='IoU', rule='greater', strict=strict)
    options = {'custom_hooks': [*recipe('segmentation').custom_hooks, hook]}
    result = run('segmentation', 'iterations', options)
    assert_refused_early(result, "monitor of EarlyStoppingHook is 'IoU'", "(did you mean 'mIoU'?)", 'aAcc, mAcc, mIoU')
    late = run('segmentation', 'iterations', options, checked=False)
    if strict:
        assert_failed_late(late, 'Iter(val)', 'Early stopping conditioned on metric')
    else:
        assert late[0] == 0, late[1]  # it never stops early
    hook['monitor'] = 'mIoU'
    assert run('segmentation', 'iterations', options)[0] == 0


def test_a_scheduler_by_a_score_that_does_not_exist_is_refused(run):
    scheduler = dict(type='ReduceOnPlateauLR', monitor='mIuO', rule='greater')
    options = {'param_scheduler': [scheduler], 'train_cfg.val_interval': 1}
    result = run('segmentation', 'epochs', options)
    assert_refused_early(result, "param_scheduler.0.monitor is 'mIuO'", "(did you mean 'mIoU'?)")
    assert_failed_late(run('segmentation', 'epochs', options, checked=False), 'Epoch(train)', 'mIuO is not in dict')
    scheduler['monitor'] = 'mIoU'
    assert run('segmentation', 'epochs', options)[0] == 0


COCO_OPTIONS = [
    dict(metric='bbox'),
    dict(metric=['bbox', 'segm'], prefix='mine'),
    dict(metric=['bbox', 'segm'], classwise=True),
    dict(metric='segm', metric_items=['mAP', 'AR@300']),
    dict(metric=['proposal', 'bbox']),
    dict(metric='proposal', metric_items=['AR@100']),
    dict(metric='proposal_fast', proposal_nums=(1, 10)),
    dict(metric='bbox', format_only=True, outfile_prefix='out'),
]


@pytest.mark.parametrize('options', COCO_OPTIONS, ids=str)
@pytest.mark.parametrize('cls', [CocoMetric, FastCocoMetric])
def test_the_scores_of_coco_are_those_that_the_metric_returns(cls, options, mini_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = json.loads((mini_data / 'data/mini/coco/annotations/instances_val2017.json').read_text())
    image = content['images'][0]  # a single one, since NumPy refuses the arrays of proposal_fast for several
    marks = [mark for mark in content['annotations'] if mark['image_id'] == image['id']]
    Path('one.json').write_text(json.dumps(content | dict(images=[image], annotations=marks)))
    metric = cls(ann_file='one.json', **options)
    metric.dataset_meta = dict(classes=tuple(category['name'] for category in content['categories']))
    truth = COCO('one.json')
    boxes = torch.tensor([mark['bbox'] for mark in marks])
    boxes[:, 2:] += boxes[:, :2]
    labels = torch.tensor([truth.getCatIds().index(mark['category_id']) for mark in marks])
    masks = [rle.encode(np.asfortranarray(truth.annToMask(mark))) for mark in marks]
    found = dict(bboxes=boxes, scores=torch.ones(len(marks)), labels=labels, masks=masks)
    metric.process({}, [dict(pred_instances=found, img_id=image['id'], ori_shape=(image['height'], image['width']))])
    returned = set(metric.evaluate(1))
    assert score_names(metric) == returned
    assert bool(returned) == ('format_only' not in options)


@pytest.mark.parametrize(
    'options',
    [
        {},
        dict(prefix='ade'),
        dict(iou_metrics='mDice'),
        dict(iou_metrics=['mIoU', 'mFscore']),
        dict(format_only=True, output_dir='out'),
    ],
    ids=str,
)
def test_the_scores_of_segmentation_are_those_that_the_metric_returns(options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metric = IoUMetric(**options)
    metric.dataset_meta = dict(classes=('sky', 'sea'))
    labels = dict(data=torch.tensor([[[0, 1], [1, 1]]]))
    metric.process({}, [dict(pred_sem_seg=labels, gt_sem_seg=labels, img_path='a.jpg')])
    returned = set(metric.evaluate(1))
    assert score_names(metric) == returned
    assert bool(returned) == ('format_only' not in options)


class OwnCoco(CocoMetric):
    """A user's metric, which may return any scores."""


class OwnIoU(IoUMetric):
    """A user's metric, which may return any scores."""


class OwnMetric(BaseMetric):
    """A user's metric, which may return any scores."""

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return dict(own=1.0)


@pytest.mark.parametrize('cls', [OwnCoco, OwnIoU, OwnMetric])
def test_the_scores_of_a_users_metric_are_not_known(cls):
    assert score_names(cls()) is None


# --- batch norms ------------------------------------------------------------------------------------------------------


def test_a_batch_norm_over_one_image_is_refused(run):
    options = {'train_dataloader.batch_size': 1}
    result = run('segmentation', 'iterations', options)
    assert_refused_early(
        result, 'psp_modules.0.1.bn normalises over the images of a process', 'set train_dataloader.batch_size=2'
    )
    late = run('segmentation', 'iterations', options, checked=False)
    assert_failed_late(late, 'Expected more than 1 value per channel when training')


def test_a_last_batch_of_one_image_is_refused(run):
    five = {'train_dataloader.dataset.indices': 5}
    result = run('segmentation', 'epochs', five)
    assert_refused_early(result, '5 images', 'train_dataloader.batch_size=2', 'or train_dataloader.drop_last=True')
    late = run('segmentation', 'epochs', five, checked=False)
    assert_failed_late(late, 'Epoch(train) [1][2/3]', 'Expected more than 1 value per channel when training')
    for accepted in ({'train_dataloader.drop_last': True}, {'train_dataloader.batch_size': 3}):
        code, output = run('segmentation', 'epochs', five | accepted)
        assert code == 0, output


def test_a_last_batch_of_one_image_is_refused_by_iterations_if_the_sampler_ends(run):
    options = {'train_dataloader.dataset.indices': 5}
    assert run('segmentation', 'iterations', options)[0] == 0
    options['train_dataloader.sampler'] = dict(_delete_=True, type='DefaultSampler', shuffle=True)
    assert_refused_early(run('segmentation', 'iterations', options), '5 images', 'train_dataloader.batch_size=2')
    late = run('segmentation', 'iterations', options, checked=False)
    assert_failed_late(late, 'Iter(train) [2/6]', 'Expected more than 1 value per channel when training')


def test_one_image_is_accepted_without_a_trained_batch_norm_after_a_pooling(run):
    norm = {f'model.{head}.norm_cfg': dict(type='GN', num_groups=2) for head in ('decode_head', 'auxiliary_head')}
    for task, options in (('segmentation', norm), ('detection', {})):
        code, output = run(task, 'iterations', options | {'train_dataloader.batch_size': 1})
        assert code == 0, output


@pytest.mark.parametrize(('kind', 'accepted'), [('BN', False), ('SyncBN', True)])
def test_one_image_in_each_of_several_processes_is_accepted_with_sync_bn(kind, accepted):
    """A Runner keeps SyncBN only with several processes, in which it normalises over the images of all."""
    norm = dict(type=kind, requires_grad=True)
    model, _ = model_and_config(
        'segmentation', {f'model.{h}.norm_cfg': norm for h in ('decode_head', 'auxiliary_head')}
    )
    cfg = Config(dict(train_dataloader=dict(batch_size=1)))
    loop = SimpleNamespace(dataloader=DataLoader(range(4), batch_size=1))
    if accepted:
        check_batch_norms(RunPart(cfg, model, loop=loop))
    else:
        with pytest.raises(UserError, match=r'train_dataloader\.batch_size is 1'):
            check_batch_norms(RunPart(cfg, model, loop=loop))


# --- channels ---------------------------------------------------------------------------------------------------------

WRONG_CHANNELS = [
    (
        'detection',
        {'model.neck.in_channels': [4, 8, 8, 16]},
        'model.neck.in_channels is [4, 8, 8, 16], but the maps of MambaOut have [4, 8, 8, 8] channels: '
        'set model.neck.in_channels=[4,8,8,8]',
    ),
    (
        'detection',
        {'model.backbone.out_indices': (0, 1, 2)},
        'model.neck.in_channels is [4, 8, 8, 8], but the maps of MambaOut have [4, 8, 8] channels',
    ),
    (
        'detection',
        {'model.rpn_head.in_channels': 16},
        'model.rpn_head.in_channels is 16, but the maps of FPN have 8 channels: set model.rpn_head.in_channels=8',
    ),
    (
        'detection',
        {'model.roi_head.bbox_roi_extractor.out_channels': 16},
        'model.roi_head.bbox_roi_extractor.out_channels is 16, but the maps of FPN have 8 channels',
    ),
    (
        'detection',
        {'model.roi_head.mask_head.in_channels': 4},
        'model.roi_head.mask_head.in_channels is 4, but the maps of FPN have 8 channels',
    ),
    (
        'segmentation',
        {'model.decode_head.in_channels': [4, 8, 8, 16]},
        'model.decode_head.in_channels is [4, 8, 8, 16], but maps [0, 1, 2, 3] of MambaOut have [4, 8, 8, 8] channels: '
        'set model.decode_head.in_channels=[4,8,8,8]',
    ),
    (
        'segmentation',
        {'model.auxiliary_head.in_channels': 16},
        'model.auxiliary_head.in_channels is 16, but map 2 of MambaOut has 8 channels: '
        'set model.auxiliary_head.in_channels=8',
    ),
    (
        'segmentation',
        {'model.auxiliary_head.in_index': 4},
        'model.auxiliary_head.in_index is 4, but MambaOut gives 4 maps',
    ),
    (
        'segmentation',
        {
            'model.auxiliary_head.in_channels': [8, 16],
            'model.auxiliary_head.in_index': [1, 2],
            'model.auxiliary_head.input_transform': 'resize_concat',
        },
        'model.auxiliary_head.in_channels is 24 in sum, but maps [1, 2] of MambaOut have [8, 8] channels: '
        'set model.auxiliary_head.in_channels=[8,8]',
    ),
]


def model_and_config(task: str, options: dict) -> tuple[torch.nn.Module, Config]:
    """A model of the small recipes with other settings, and its config."""
    cfg = copy.deepcopy(recipe(task))
    cfg.merge_from_dict(copy.deepcopy(options))
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model), cfg


def run_all_parts(model: torch.nn.Module, task: str) -> None:
    """Run a model on two images, as training and testing do, with all of its heads."""
    images = torch.zeros(2, 3, 64, 64)
    if task == 'segmentation':
        maps = model.extract_feat(images)
        model.decode_head(maps)
        model.auxiliary_head(maps)
        return
    shapes = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape'), (64, 64))
    samples = [BaseDataElement(metainfo=dict(shapes, scale_factor=(1.0, 1.0))) for _ in images]
    model.eval()(images, samples, mode='tensor')


@pytest.mark.parametrize(('task', 'options', 'message'), WRONG_CHANNELS)
def test_other_channels_than_those_of_the_maps_are_refused_with_the_right_ones(task, options, message):
    model, cfg = model_and_config(task, options)
    with pytest.raises((RuntimeError, AssertionError, IndexError)):
        run_all_parts(model, task)
    with pytest.raises(UserError) as refusal:
        check_map_channels(RunPart(cfg, model))
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ('task', 'options'),
    [
        ('detection', {}),
        ('detection', {'model.neck.start_level': 1, 'model.neck.in_channels': [99, 8, 8, 8]}),  # map 0 is not used
        ('segmentation', {}),
        ('segmentation', {'model.auxiliary_head.in_index': -1}),
        (
            'segmentation',
            {
                'model.auxiliary_head.in_channels': [8, 8],
                'model.auxiliary_head.in_index': [1, 2],
                'model.auxiliary_head.input_transform': 'resize_concat',
            },
        ),
    ],
)
def test_channels_that_fit_are_accepted(task, options):
    model, cfg = model_and_config(task, options)
    run_all_parts(model, task)
    check_map_channels(RunPart(cfg, model))


@pytest.mark.parametrize('name', [name for name in CONFIGS if name.endswith('_tiny')])
def test_the_channels_of_a_recipe_are_accepted(name):
    cfg = Config.fromfile(ROOT / f'configs/{name}.py')
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.init_cfg = None
    check_map_channels(RunPart(cfg, MODELS.build(cfg.model)))


@pytest.mark.parametrize(
    ('base', 'channels'),
    [
        ('mmdet::faster_rcnn/faster-rcnn_r50-caffe-c4_ms-1x_coco.py', None),  # a shared head between the two stages
        ('mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py', 'model.neck'),  # heads in lists
        ('mmdet::dyhead/atss_r50_fpn_dyhead_1x_coco.py', 'model.neck.0'),  # necks in a list
        ('mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py', 'model.neck'),  # a neck that keeps no in_channels
        ('mmdet::detectors/detectors_cascade-rcnn_r50_1x_coco.py', None),  # a neck that takes the image, too
        ('mmseg::ocrnet/ocrnet_hr18_4xb2-40k_cityscapes-512x1024.py', None),  # a cascade of heads
        ('mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py', None),  # fewer maps in evaluation mode
        ('mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py', None),  # a head without in_index
    ],
)
def test_upstreams_models_are_accepted_and_their_wrong_necks_are_not(base, channels, tmp_path):
    (tmp_path / 'mine.py').write_text(f'_base_ = {base!r}')
    cfg = Config.fromfile(tmp_path / 'mine.py')
    init_default_scope(cfg.default_scope)
    cfg.model.pop('pretrained', None)
    cfg.model.backbone.init_cfg = None
    check_map_channels(RunPart(cfg, MODELS.build(copy.deepcopy(cfg.model))))
    if channels:
        neck = cfg.model.neck[0] if isinstance(cfg.model.neck, list) else cfg.model.neck
        neck.in_channels[-1] = 1024
        with pytest.raises(UserError, match=rf'^{channels}\.in_channels is .*, but the maps of ResNet have .*2048'):
            check_map_channels(RunPart(cfg, MODELS.build(copy.deepcopy(cfg.model))))


def test_the_check_of_channels_changes_neither_modes_nor_weights_nor_the_random_state():
    model, cfg = model_and_config('segmentation', {'model.backbone.frozen_stages': 1})
    model.train()
    model.decode_head.eval()
    calls = []
    model.backbone.register_forward_hook(lambda module, inputs, maps: calls.append(torch.rand(1)))
    modes = {name: module.training for name, module in model.named_modules()}
    weights, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    check_map_channels(RunPart(cfg, model))
    assert len(calls) == 1 and set(modes.values()) == {True, False}  # the hook has drawn a random number
    assert torch.equal(torch.get_rng_state(), state)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    model.backbone(torch.zeros(1, 3, 64, 64))
    assert not torch.equal(torch.get_rng_state(), state)


def test_channels_are_checked_before_weights_are_loaded(run):
    source = dict(_delete_=True, type='Pretrained', checkpoint='none.pth')
    options = {'model.backbone.init_cfg': source}
    wrong = options | {'model.auxiliary_head.in_channels': 16}
    assert_refused_early(run('segmentation', 'iterations', wrong), 'model.auxiliary_head.in_channels is 16')
    code, output = run('segmentation', 'iterations', options)
    assert code == 1 and 'none.pth' in output[-1000:] and 'in_channels' not in output[-1000:], output


def report_compilation(graph: torch.fx.GraphModule, inputs: list) -> object:
    """A compiler that says when it is called."""
    print('compiling the backbone')
    return graph.forward


@pytest.mark.parametrize('priority', ['NORMAL', 'HIGHEST'])
def test_the_check_of_channels_compiles_nothing(run, priority):
    hook = dict(type='CompileBackboneHook', backend=report_compilation, priority=priority)
    code, output = run('detection', 'epochs', {'custom_hooks': [dict(type='CheckRunHook'), hook]}, stop=True)
    assert code == -signal.SIGKILL and 'will be compiled in its first forward pass' in output, output
    assert ('compiling the backbone' in output) == (priority == 'HIGHEST')  # a user's own priority is obeyed


# --- schedules --------------------------------------------------------------------------------------------------------

WARM_UP = dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=3)
STEPS = dict(type='MultiStepLR', by_epoch=True, begin=0, end=2, milestones=[1])
LONGER, SHORTER = 'THE SCHEDULE IS LONGER THAN THE RUN: ', 'THE SCHEDULE IS SHORTER THAN THE RUN: its last part, '
SCHEDULES = {  # of two epochs or six iterations: the loop, the schedule and the warning
    'none': ('epochs', None, None),
    'constant': ('epochs', [dict(type='ConstantLR', factor=1.0)], None),
    'steps': ('epochs', [WARM_UP, STEPS], None),
    'only a warm-up': ('epochs', [WARM_UP], None),
    'without an end': ('iterations', [dict(type='PolyLR', by_epoch=False)], None),
    'not in a list': ('epochs', dict(type='CosineAnnealingLR', T_max=2), None),
    'a long warm-up': (
        'epochs',
        [WARM_UP | dict(end=1000), STEPS],
        f'{LONGER}param_scheduler.0 (LinearLR) ends at iteration 1000, and the run at 6. Set param_scheduler.0.end=6, '
        'or a higher train_cfg.max_epochs',
    ),
    'steps of a longer recipe': (
        'epochs',
        [WARM_UP, STEPS | dict(end=12, milestones=[1, 8, 11])],
        f'{LONGER}param_scheduler.1 (MultiStepLR) ends at epoch 12, and the run at 2; param_scheduler.1 (MultiStepLR) '
        'never reaches its milestones 8, 11 in 2 epochs. Set param_scheduler.1.end=2, param_scheduler.1.milestones, or '
        'a higher train_cfg.max_epochs',
    ),
    'a milestone that is the end': (
        'epochs',
        [dict(type='MultiStepLR', milestones=[1, 2])],
        f'{LONGER}param_scheduler.0 (MultiStepLR) never reaches its milestones 2 in 2 epochs',
    ),
    'decay in iterations': (
        'iterations',
        [WARM_UP, dict(type='PolyLR', by_epoch=False, begin=3, end=160000)],
        f'{LONGER}param_scheduler.1 (PolyLR) ends at iteration 160000, and the run at 6. Set param_scheduler.1.end=6, '
        'or a higher train_cfg.max_iters',
    ),
    'decay in converted epochs': (
        'epochs',
        [WARM_UP, dict(type='CosineAnnealingLR', begin=0, end=4, T_max=4, convert_to_iter_based=True)],
        f'{LONGER}param_scheduler.1 (CosineAnnealingLR) ends at iteration 12, and the run at 6. '
        'Set param_scheduler.1.end=2 and param_scheduler.1.T_max=2, or a higher train_cfg.max_epochs',
    ),
    'a cosine that rises again': (
        'epochs',
        dict(type='CosineAnnealingLR', T_max=1),
        'THE SCHEDULE RISES AGAIN: param_scheduler (CosineAnnealingLR) falls for T_max=1 only. '
        'Set param_scheduler.end=2 and param_scheduler.T_max=2',
    ),
    'too short in epochs': (
        'epochs',
        dict(type='CosineAnnealingLR', T_max=1, end=1),
        f'{SHORTER}param_scheduler (CosineAnnealingLR) ends at epoch 1, and the run at 2. The learning rate is '
        'constant in between. Set param_scheduler.end=2 and param_scheduler.T_max=2, or a lower train_cfg.max_epochs',
    ),
    'too short in iterations': (
        'iterations',
        [WARM_UP, dict(type='PolyLR', by_epoch=False, begin=3, end=5)],
        f'{SHORTER}param_scheduler.1 (PolyLR) ends at iteration 5, and the run at 6',
    ),
}


@pytest.mark.parametrize('name', SCHEDULES)
def test_a_schedule_and_a_run_of_different_lengths_are_reported(run, name):
    loop, schedule, warning = SCHEDULES[name]
    code, output = run('segmentation', loop, {'param_scheduler': schedule}, stop=True)
    assert code == -signal.SIGKILL, output
    if warning is None:
        assert 'THE SCHEDULE' not in output
    else:
        assert output.count('THE SCHEDULE') == 1 and warning in output, output


def test_a_milestone_is_reached_if_and_only_if_the_run_is_longer():
    """What the warning says is what mmengine's scheduler does."""
    from mmengine.optim import MultiStepLR

    for milestone, expected in ((1, 0.1), (2, 1.0)):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = MultiStepLR(optimizer, milestones=[milestone], end=2)
        used = []
        for _ in range(2):
            used.append(optimizer.param_groups[0]['lr'])
            optimizer.step()
            scheduler.step()
        assert used[-1] == pytest.approx(expected)


# --- parallelism ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ("runner_type = 'FlexibleRunner'", 'runner_type=FlexibleRunner cannot be used'),
        ("strategy = dict(type='FSDPStrategy')", 'strategy cannot be used'),
        (
            "model_wrapper_cfg = dict(type='MMDeepSpeedEngineWrapper')",
            'model_wrapper_cfg.type=MMDeepSpeedEngineWrapper cannot be used',
        ),
    ],
)
def test_other_runners_and_deepspeed_are_refused(tool, tmp_path, text, words):
    done = tool('train.py', child(tmp_path, text), '--work-dir', tmp_path / 'w')
    refuses(done, words, 'model.backbone.with_cp=True')
    assert not os.path.exists(tmp_path / 'w')


def test_ddp_is_accepted():
    for settings_ in ({}, dict(runner_type='Runner'), dict(model_wrapper_cfg=dict(type='MMDistributedDataParallel'))):
        refuse_other_runners(Config(settings_))


def test_a_config_with_its_own_hooks_is_checked_by_the_programs(tool, mini_data, tmp_path):
    text = "custom_hooks = [dict(type='NumClassesHook')]\nmodel = dict(neck=dict(in_channels=[32, 64, 128, 256]))"
    done = tool('train.py', child(tmp_path, text), '--work-dir', tmp_path / 'w', cwd=mini_data)
    refuses(done, 'set model.neck.in_channels=[32,64,128,192]')
    assert not list(Path(tmp_path / 'w').rglob('*.pth'))
