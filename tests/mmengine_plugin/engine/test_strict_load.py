"""A checkpoint fits the model under its present names or those that upstream renames, or it is refused.

The models are small ones of mmdet, and a real Runner loads the checkpoints.
"""

import itertools
import logging
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import mmengine.runner.runner
import pytest
import torch
from mmcv.cnn import ConvAWS2d
from mmdet.utils import register_all_modules
from mmengine.config import ConfigDict
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader

import mmdet_plugin  # noqa: F401  (registers the hook and the reader of checkpoints)
from backbones import UserError
from backbones.private_names import STATE_DICT_VERSIONS

register_all_modules(init_default_scope=False)
RUNS = itertools.count()  # mmengine keeps one logger for each name of a run

BODY = dict(
    backbone=dict(type='ResNet', depth=18, base_channels=8, stem_channels=8),
    neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=5),
)
ANCHORS = dict(type='AnchorGenerator', ratios=[1.0], scales=[8], strides=[4, 8, 16, 32, 64])
RPN_HEAD = dict(type='RPNHead', in_channels=8, feat_channels=8, anchor_generator=ANCHORS)
RETINANET = dict(
    BODY,
    type='RetinaNet',
    bbox_head=dict(
        type='RetinaHead', num_classes=3, in_channels=8, feat_channels=8, stacked_convs=1, anchor_generator=ANCHORS
    ),
)
FCOS = dict(
    BODY,
    type='FCOS',
    bbox_head=dict(
        type='FCOSHead',
        num_classes=3,
        in_channels=8,
        feat_channels=8,
        stacked_convs=1,
        norm_cfg=dict(type='GN', num_groups=4),
    ),
)
FASTER_RCNN = dict(
    BODY,
    type='FasterRCNN',
    rpn_head=RPN_HEAD,
    roi_head=dict(
        type='StandardRoIHead',
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=3),
            out_channels=8,
            featmap_strides=[4, 8, 16, 32],
        ),
        bbox_head=dict(type='Shared2FCBBoxHead', num_classes=3, in_channels=8, fc_out_channels=8, roi_feat_size=3),
    ),
    train_cfg=dict(rpn=None, rcnn=None),
    test_cfg=dict(rpn=None, rcnn=None),
)
SOFT_TEACHER = dict(type='SoftTeacher', detector=FASTER_RCNN, semi_train_cfg=dict(), semi_test_cfg=dict())


@MODELS.register_module()
class Small(BaseModel):
    """A convolution under a weight norm, a batch norm, and a buffer of ``size`` numbers."""

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.conv = parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer('table', torch.zeros(size))

    def forward(self, inputs: Tensor, data_samples: object = None, mode: str = 'tensor') -> dict[str, Tensor]:
        return dict(loss=self.norm(self.conv(inputs)).square().mean())


@MODELS.register_module()
class Standardised(BaseModel):
    """A convolution with weight standardisation; mmcv computes its statistics where a checkpoint lacks them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = ConvAWS2d(3, 4, 3)

    def forward(self, inputs: Tensor, data_samples: object = None, mode: str = 'tensor') -> Tensor:
        return self.conv(inputs)


@MODELS.register_module()
class Picky(Small):
    """A model that rejects all weights for a reason of its own."""

    def _load_from_state_dict(self, *arguments) -> None:
        super()._load_from_state_dict(*arguments)
        arguments[-1].append('the weights were trained for another planet')


def renamed(state: dict[str, Tensor], names: dict[str, str]) -> OrderedDict[str, Tensor]:
    """Weights with the beginnings of their names exchanged, without the versions of modules."""
    out = OrderedDict()
    for key, value in state.items():
        start = next((start for start in names if key.startswith(start)), '')
        out[names.get(start, '') + key.removeprefix(start)] = value
    return out


def of_one_student(state: dict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """The weights of one of the two detectors in a semi-supervised one."""
    return OrderedDict((k.removeprefix('student.'), v) for k, v in state.items() if k.startswith('student.'))


OLD_NAMES: dict[str, tuple[dict, Callable]] = {
    'FCOS': (
        FCOS,
        lambda state: renamed(
            state, {f'bbox_head.conv_{part}': f'bbox_head.fcos_{part}' for part in ('cls', 'reg', 'centerness')}
        ),
    ),
    'one stage': (RETINANET, lambda state: renamed(state, {'bbox_head': 'rpn_head'})),
    'two stages': (FASTER_RCNN, lambda state: renamed(state, {'rpn_head': 'bbox_head'})),
    'teacher and student': (SOFT_TEACHER, of_one_student),
    'weight norm': (
        dict(type='Small'),
        lambda state: renamed(
            state,
            {
                'conv.parametrizations.weight.original0': 'conv.weight_g',
                'conv.parametrizations.weight.original1': 'conv.weight_v',
            },
        ),
    ),
}


@pytest.fixture(autouse=True)
def no_questions_to_compilers(monkeypatch):
    monkeypatch.setattr(mmengine.runner.runner, 'collect_env', dict)


def weights(model: dict) -> OrderedDict[str, Tensor]:
    """Weights of another training than the one that loads them: each tensor has values of its own."""
    with torch.random.fork_rng():
        state = MODELS.build(ConfigDict(model, _scope_='mmdet')).state_dict()
        for i, (key, value) in enumerate(state.items()):
            state[key] = torch.full_like(value, i) if not value.dtype.is_floating_point else torch.rand_like(value) + i
    for key in state:
        if key.startswith('teacher.'):
            state[key] = state[key.replace('teacher.', 'student.')]  # as they are when they come from one detector
    return state


def runner_of(tmp_path: Path, model: dict, state: dict, hook: dict | None = None) -> Runner:
    """A Runner of a model with StrictLoadHook that will load ``state``."""
    torch.save(dict(state_dict=state, meta={}), path := tmp_path / 'checkpoint.pth')
    return Runner(
        model=ConfigDict(model),
        work_dir=str(tmp_path / 'run'),
        load_from=str(path),
        custom_hooks=[dict(type='StrictLoadHook', **(hook or {}))],
        default_scope='mmdet',
        experiment_name=f'strict_load_{next(RUNS)}',
    )


def load(tmp_path: Path, model: dict, state: dict, hook: dict | None = None) -> tuple[nn.Module, str]:
    """The model after a Runner has loaded ``state``, and what the hook has logged."""
    runner = runner_of(tmp_path, model, state, hook)
    said = []
    watch = logging.Handler()
    watch.emit = lambda record: said.append(record.getMessage()) if record.module == 'strict_load_hook' else None
    runner.logger.addHandler(watch)
    runner.load_or_resume()
    return runner.model, '\n'.join(said)


def assert_holds(model: nn.Module, state: dict[str, Tensor]) -> None:
    own = model.state_dict()
    assert set(own) == set(state)
    assert [key for key, value in own.items() if not torch.equal(value, state[key])] == []


@pytest.mark.parametrize('kind', OLD_NAMES)
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_a_checkpoint_with_old_names_loads_completely(kind, prefix, tmp_path):
    model, to_old = OLD_NAMES[kind]
    new = weights(model)
    old = to_old(new)
    assert set(old) != set(new)
    loaded, said = load(tmp_path, model, OrderedDict((prefix + k, v) for k, v in old.items()))
    assert_holds(loaded, new)
    assert said == ''


@pytest.mark.parametrize('section', ['state_dict', 'model', 'model_state_dict', None])
@pytest.mark.parametrize('prefix', ['', '_orig_mod.', 'module._orig_mod.', 'model.'])
def test_weights_of_a_wrapped_model_load_from_any_usual_section(section, prefix, tmp_path):
    new = weights(dict(type='Small'))
    state = OrderedDict((prefix + key, value) for key, value in new.items())
    runner = runner_of(tmp_path, dict(type='Small'), {})
    torch.save(dict({section: state}, epoch=3) if section else state, tmp_path / 'checkpoint.pth')
    runner.load_or_resume()
    assert_holds(runner.model, new)


def test_a_part_before_only_some_names_is_refused(tmp_path):
    state = OrderedDict((f'net.{key}', value) for key, value in weights(dict(type='Small')).items())
    state['loss.weight'] = torch.zeros(1)
    with pytest.raises(UserError, match='do not fit the model: missing '):
        load(tmp_path, dict(type='Small'), state)


def test_the_weights_of_a_backbone_alone_are_answered_with_init_cfg(tmp_path):
    state = weights(RETINANET)
    alone = OrderedDict((k.removeprefix('backbone.'), v) for k, v in state.items() if k.startswith('backbone.'))
    with pytest.raises(UserError, match=r"of a backbone alone: .* model.backbone.init_cfg=dict\(type='Pretrained'"):
        load(tmp_path, RETINANET, alone)
    heads = OrderedDict((k.removeprefix('bbox_head.'), v) for k, v in state.items() if k.startswith('bbox_head.'))
    with pytest.raises(UserError, match='do not fit the model: missing backbone'):
        load(tmp_path, RETINANET, heads)


@pytest.mark.parametrize('kind', OLD_NAMES)
def test_a_typo_in_an_old_name_is_refused(kind, tmp_path):
    model, to_old = OLD_NAMES[kind]
    new = weights(model)
    old = to_old(new)
    wrong = [key for key in old if key not in new][-1]
    old[f'{wrong}s'] = old.pop(wrong)
    with pytest.raises(UserError, match=rf'missing \S+.*unexpected \S+{wrong.split(".")[-1]}s'):
        load(tmp_path, model, old)


def test_names_are_old_only_in_a_checkpoint_without_the_version_of_the_module(tmp_path):
    new = weights(FCOS)
    old = OLD_NAMES['FCOS'][1](new)
    assert_holds(load(tmp_path, FCOS, old)[0], new)
    setattr(old, STATE_DICT_VERSIONS, {'bbox_head': dict(version=1)})
    with pytest.raises(UserError, match='missing bbox_head.conv_cls.weight'):
        load(tmp_path, FCOS, old)


def test_a_checkpoint_of_an_old_batch_norm_lacks_its_counter(tmp_path):
    state = OrderedDict(weights(dict(type='Small')))
    del state['norm.num_batches_tracked']
    load(tmp_path, dict(type='Small'), state)
    del state['norm.running_mean']
    with pytest.raises(UserError, match='missing norm.running_mean'):
        load(tmp_path, dict(type='Small'), state)


def test_statistics_that_a_module_computes_may_be_missing(tmp_path):
    model = dict(type='Standardised')
    state = {key: value for key, value in weights(model).items() if key in ('conv.weight', 'conv.bias')}
    loaded = load(tmp_path, model, state)[0].conv
    assert torch.equal(loaded.weight, state['conv.weight'])
    torch.testing.assert_close(loaded.weight_beta.flatten(), state['conv.weight'].mean((1, 2, 3)))
    del state['conv.weight']
    with pytest.raises(UserError, match='missing conv.weight'):
        load(tmp_path, model, state)


def test_a_value_that_is_no_tensor_is_refused(tmp_path):
    state = weights(dict(type='Small')) | dict(table=3)
    with pytest.raises(UserError, match=r'table is not a tensor instead of \(3,\)'):
        load(tmp_path, dict(type='Small'), state)


def test_a_refused_checkpoint_changes_no_parameter(tmp_path):
    state = weights(RETINANET)
    state['bbox_head.retina_cls.bias'] = torch.zeros(5)
    runner = runner_of(tmp_path, RETINANET, state)
    before = {key: value.clone() for key, value in runner.model.state_dict().items()}
    with pytest.raises(UserError, match=r'bbox_head.retina_cls.bias is \(5,\) instead of \(3,\)'):
        runner.load_or_resume()
    assert_holds(runner.model, before)


def test_without_strictness_what_fits_is_loaded_and_one_warning_lists_the_rest(tmp_path):
    new = weights(FCOS)
    old = OLD_NAMES['FCOS'][1](new)
    old['bbox_head.fcos_cls.bias'] = torch.zeros(5)
    old['backbone.fc.weight'] = torch.zeros(1)
    del old['neck.fpn_convs.0.conv.bias']
    with pytest.raises(UserError, match='do not fit the model'):
        load(tmp_path, FCOS, old)
    model, said = load(tmp_path, FCOS, old, dict(strict=False))
    assert said.endswith(
        'do not fit the model in 3 names or shapes. StrictLoadHook(strict=False) loads the others: '
        'missing neck.fpn_convs.0.conv.bias; unexpected backbone.fc.weight; '
        'bbox_head.conv_cls.bias is (5,) instead of (3,)'
    )
    own = model.state_dict()
    assert {key for key in own if not torch.equal(own[key], new[key])} == {
        'neck.fpn_convs.0.conv.bias',
        'bbox_head.conv_cls.bias',
    }


def test_without_strictness_a_checkpoint_that_fits_gives_no_warning(tmp_path):
    new = weights(RETINANET)
    model, said = load(tmp_path, RETINANET, new, dict(strict=False))
    assert_holds(model, new)
    assert said == ''


def test_the_reason_of_a_module_is_told_or_ignored_without_strictness(tmp_path):
    new = weights(dict(type='Small'))
    with pytest.raises(UserError, match='do not fit the model: .*another planet'):
        load(tmp_path, dict(type='Picky'), new)
    assert_holds(load(tmp_path, dict(type='Picky'), new, dict(strict=False))[0], new)


def test_reinitialised_layers_of_another_shape_keep_their_values_also_under_old_names(tmp_path):
    new = weights(FCOS)
    old = OLD_NAMES['FCOS'][1](new)
    head = dict(FCOS['bbox_head'], num_classes=2)
    hook = dict(reinitialise='bbox_head.conv_cls')
    runner = runner_of(tmp_path, dict(FCOS, bbox_head=head), old, hook)
    layer = runner.model.bbox_head.conv_cls
    before = {f'bbox_head.conv_cls.{key}': value.clone() for key, value in layer.state_dict().items()}
    runner.load_or_resume()
    assert_holds(runner.model, new | before)
    assert_holds(load(tmp_path, FCOS, old, hook)[0], new)  # a layer that fits is loaded
    with pytest.raises(UserError, match='bbox_head.conv_cls.weight is'):
        load(tmp_path, dict(FCOS, bbox_head=head), old, dict(reinitialise='bbox_head.conv_reg'))


def test_a_reinitialisation_must_name_a_parameter(tmp_path):
    with pytest.raises(UserError, match="no parameter of the model begins with 'bbox_head.fcos'"):
        load(tmp_path, FCOS, weights(FCOS), dict(reinitialise=['bbox_head.fcos']))


def test_a_model_with_test_time_augmentation_loads_old_names(tmp_path):
    new = weights(FCOS)
    old = OLD_NAMES['FCOS'][1](new)
    wrapped = dict(type='DetTTAModel', module=FCOS)
    model, said = load(tmp_path, wrapped, old)
    assert_holds(model.module, new)
    assert said == ''
    del old['bbox_head.fcos_cls.bias']
    with pytest.raises(UserError, match='missing bbox_head.conv_cls.bias'):
        load(tmp_path, wrapped, old)


def trained(tmp_path: Path, epochs: int, hooks: list[dict], size: int = 3, **settings) -> Runner:
    """A Runner that trains a model with an average of its weights."""
    torch.manual_seed(0)
    data = [dict(inputs=torch.rand(3, 8, 8)) for _ in range(4)]
    return Runner(
        model=dict(type='Small', size=size),
        work_dir=str(tmp_path),
        train_dataloader=DataLoader(data, batch_size=2),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=hooks,
        default_scope='mmengine',
        experiment_name=f'strict_load_{next(RUNS)}',
        **settings,
    )


AVERAGE = dict(type='EMAHook', momentum=0.3)
STRICT, LENIENT = dict(type='StrictLoadHook'), dict(type='StrictLoadHook', strict=False)


@pytest.mark.parametrize('hooks', [[STRICT, AVERAGE], [AVERAGE, STRICT], [AVERAGE, LENIENT]])
def test_a_resumed_average_and_its_model_get_their_own_weights(hooks, tmp_path):
    trained(tmp_path, 1, [AVERAGE]).train()
    path = tmp_path / 'epoch_1.pth'
    runner = resumed(tmp_path, hooks, path)
    file = torch.load(path, weights_only=False)
    average = next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model.module
    assert_holds(average, file['state_dict'])
    assert_holds(runner.model, {k[7:]: v for k, v in file['ema_state_dict'].items() if k.startswith('module.')})
    assert not torch.equal(runner.model.conv.bias, average.conv.bias)


def resumed(tmp_path: Path, hooks: list[dict], path: Path, size: int = 3) -> Runner:
    """A Runner that has resumed from a checkpoint and not yet trained."""
    runner = trained(tmp_path, 2, hooks, size, resume=True, load_from=str(path))
    runner.call_hook('before_run')
    runner.load_or_resume()
    return runner


def test_a_resumed_run_must_fit_in_reinitialised_parameters_too(tmp_path):
    trained(tmp_path, 1, [AVERAGE]).train()
    hook = dict(STRICT, reinitialise='table')
    resumed(tmp_path, [hook], tmp_path / 'epoch_1.pth')
    with pytest.raises(UserError, match=r'table is \(3,\) instead of \(5,\)'):
        resumed(tmp_path, [hook], tmp_path / 'epoch_1.pth', size=5)


def test_without_strictness_a_resumed_average_need_not_fit(tmp_path):
    trained(tmp_path, 1, [AVERAGE]).train()
    path = tmp_path / 'epoch_1.pth'
    with pytest.raises(UserError, match=r'table is \(3,\) instead of \(5,\)'):
        resumed(tmp_path, [AVERAGE, STRICT], path, size=5)
    runner = resumed(tmp_path, [AVERAGE, LENIENT], path, size=5)
    weight = torch.load(path, weights_only=False)['ema_state_dict']['module.norm.weight']
    assert torch.equal(runner.model.norm.weight, weight) and len(runner.model.table) == 5
