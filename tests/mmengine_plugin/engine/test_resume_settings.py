"""Runs with other settings of mmengine's hooks, loops and optimizers are resumed to the last bit, too."""

import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, TRANSFORMS
from mmengine.structures import BaseDataElement
from torch import nn

from backbones.safe_checkpoint import read_checkpoint
from mmengine_plugin.engine.checkpoint_files import checkpoints, last_checkpoint
from mmengine_plugin.engine.compare_runs import differences, end_state
from mmengine_plugin.engine.signals import EXIT_CODE
from tests.mmengine_plugin.engine.points import LOOPS, Line, run

CHECKPOINT = dict(type='SafeCheckpointHook', by_epoch=False, interval=2, max_keep_ckpts=2, save_best='mean')
CHECKPOINT['rule'] = 'greater'
RESUME = dict(type='ResumeHook')
STOCK = CHECKPOINT | dict(type='CheckpointHook')


def check(tmp_path: Path, loop: str, send: tuple, hooks: Sequence[dict] = (RESUME,), **changes) -> str:
    """Compare a run that ends by a signal and is resumed with an uninterrupted one; return the resumed one's output."""
    code, said = run(tmp_path / 'whole', loop, custom_hooks=hooks, **changes)
    assert code == 0, said
    number, moment, iteration = send
    sent = [*hooks, dict(type='Send', number=number, moment=moment, iteration=iteration)]
    code, said = run(tmp_path / 'run', loop, custom_hooks=sent, **changes)
    assert code == (-number if number == signal.SIGKILL else EXIT_CODE), said
    code, said = run(tmp_path / 'run', loop, custom_hooks=hooks, resume=True, **changes)
    assert code == 0 and 'resumed epoch' in said, said
    assert differences(end_state(tmp_path / 'whole'), end_state(tmp_path / 'run')) == [], said
    return said


@pytest.mark.parametrize('loop', LOOPS)
def test_checkpoints_in_another_folder_under_other_names_are_found(loop, tmp_path):
    place = dict(out_dir=str(tmp_path / 'elsewhere'), filename_tmpl='step{:06d}_weights.pt')
    check(tmp_path, loop, (signal.SIGKILL, 'after_train_iter', 5), default_hooks__checkpoint=dict(CHECKPOINT, **place))
    found = checkpoints(tmp_path / 'run', **place)
    assert [path.name for path in found] == ['step000009_weights.pt', 'step000008_weights.pt']
    assert {path.parent for path in found} == {tmp_path / 'elsewhere/run'}
    assert not list((tmp_path / 'run').glob('*.pt*'))
    (tmp_path / 'run/last_checkpoint').unlink()
    assert last_checkpoint(tmp_path / 'run', **place) == found[0]
    assert last_checkpoint(tmp_path / 'run') is None


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize('averaging', [dict(momentum=0.3), dict(ema_type='StochasticWeightAverage', interval=2)])
def test_averages_of_the_weights(number, averaging, tmp_path):
    hooks = [RESUME, dict(type='EMAHook', **averaging)]
    check(tmp_path, 'epochs', (number, 'after_train_iter', 4), hooks)


@pytest.mark.parametrize('loop', LOOPS)
@pytest.mark.parametrize('iteration', [2, 3, 5, 6])
def test_gradients_of_a_step_that_is_not_complete(loop, iteration, tmp_path):
    """An epoch has 3 iterations, and a step 2."""
    wrapper = dict(type='FiniteOptimWrapper', optimizer=dict(type='AdamW', lr=0.01), accumulative_counts=2)
    every = CHECKPOINT | dict(interval=3)
    send = (signal.SIGKILL, 'after_train_iter', iteration + 1)
    check(tmp_path, loop, send, optim_wrapper=wrapper, default_hooks__checkpoint=every)
    if iteration == 3:
        assert read_checkpoint(tmp_path / 'run/iter_9.pth')['gradients'] == {}  # the last step is always complete


def test_without_these_gradients_the_run_would_differ(tmp_path):
    wrapper = dict(type='FiniteOptimWrapper', optimizer=dict(type='AdamW', lr=0.01), accumulative_counts=2)
    changes = dict(optim_wrapper=wrapper, default_hooks__checkpoint=CHECKPOINT | dict(interval=3))
    assert run(tmp_path / 'whole', 'epochs', **changes)[0] == 0
    run(tmp_path / 'run', 'epochs', send=(signal.SIGKILL, 'after_train_iter', 4), **changes)
    checkpoint = torch.load(tmp_path / 'run/iter_3.pth', weights_only=False)
    assert len(checkpoint.pop('gradients')) == 6
    torch.save(checkpoint, tmp_path / 'run/iter_3.pth')
    assert run(tmp_path / 'run', 'epochs', resume=True, **changes)[0] == 0
    assert 'state_dict.head.weight' in differences(end_state(tmp_path / 'whole'), end_state(tmp_path / 'run'))


@pytest.mark.parametrize('iteration', [4, 5, 8])
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_early_stopping_counts_on(iteration, number, tmp_path):
    """The score hardly changes, so that training ends after three more validations than the first."""
    hooks = [RESUME, dict(type='EarlyStoppingHook', monitor='mean', rule='greater', min_delta=1e9, patience=3)]
    loop = dict(train_cfg=dict(type='ResumableIterLoop', max_iters=30, val_interval=3))
    check(tmp_path, 'iterations', (number, 'after_train_iter', iteration), hooks, **loop)
    assert last_checkpoint(tmp_path / 'run').name == 'iter_12.pth'


def test_a_run_that_has_stopped_early_does_not_train_on(tmp_path):
    hooks = [RESUME, dict(type='EarlyStoppingHook', monitor='mean', rule='greater', min_delta=1e9, patience=1)]
    changes = dict(custom_hooks=hooks, default_hooks__checkpoint=CHECKPOINT | dict(interval=3))
    assert run(tmp_path / 'run', 'epochs', **changes)[0] == 0
    assert last_checkpoint(tmp_path / 'run').name == 'iter_6.pth'
    code, said = run(tmp_path / 'run', 'epochs', resume=True, **changes)
    assert code == 0 and 'iter: 6' in said and 'Epoch(train)' not in said, said
    assert 'EarlyStoppingHook has stopped this run' in said
    hooks[1]['patience'] = 2
    code, said = run(tmp_path / 'run', 'epochs', resume=True, **changes)
    assert code == 0 and last_checkpoint(tmp_path / 'run').name == 'iter_9.pth', said


@pytest.mark.parametrize('iteration', [2, 4, 6])
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_a_validation_whose_interval_changes_during_the_run(iteration, number, tmp_path):
    """Validations are due after 4 iterations, and from the fifth on after each two."""
    loop = dict(type='ResumableIterLoop', max_iters=9, val_interval=4, dynamic_intervals=[(5, 2)])
    send = (number, 'after_val_iter', iteration)
    if iteration == 2:
        send = (number, 'after_train_iter', iteration)
    said = check(tmp_path, 'iterations', send, train_cfg=loop)
    assert ('was cut off and runs now' in said) == (iteration != 2)


@pytest.mark.parametrize('loop', LOOPS)
def test_mmengines_own_checkpoint_hook_repeats_no_validation_that_was_completed(loop, tmp_path):
    changes = dict(default_hooks__checkpoint=STOCK | dict(interval=3))
    said = check(tmp_path, loop, (signal.SIGKILL, 'after_train_iter', 4), **changes)
    assert 'was cut off' not in said


@pytest.mark.parametrize('loop', LOOPS)
def test_mmengines_own_checkpoint_hook_and_a_validation_cut_off_by_a_signal(loop, tmp_path):
    changes = dict(default_hooks__checkpoint=STOCK | dict(interval=3))
    said = check(tmp_path, loop, (signal.SIGTERM, 'after_val_iter', 3), **changes)
    assert said.count('was cut off and runs now') == 1


@MODELS.register_module()
class TwoLines(Line):
    """A model whose body and head have optimizers of their own."""

    def train_step(self, data, optim_wrapper):
        data = self.data_preprocessor(data, True)
        losses = self(**data, mode='loss')
        for part in optim_wrapper.values():
            part.zero_grad()
        parsed, log = self.parse_losses(losses)
        parsed.backward()
        for part in optim_wrapper.values():
            part.step()
        return log


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class OnePerChild:
    """Builds an optimizer for each child of the model."""

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        self.config = optim_wrapper_cfg

    def __call__(self, model: nn.Module) -> OptimWrapperDict:
        made: dict[str, OptimWrapper] = {}
        for name, child in (('body', model.body), ('head', model.head)):
            optimizer = torch.optim.AdamW(child.parameters(), **self.config['optimizers'][name])
            made[name] = OPTIM_WRAPPERS.build(dict(type='FiniteOptimWrapper', optimizer=optimizer))
        return OptimWrapperDict(**made)


TWO = dict(constructor='OnePerChild', optimizers=dict(body=dict(lr=0.01), head=dict(lr=0.002)))


@pytest.mark.parametrize('loop', LOOPS)
def test_two_optimizers(loop, tmp_path):
    check(tmp_path, loop, (signal.SIGTERM, 'after_train_iter', 3), model=dict(type='TwoLines'), optim_wrapper=dict(TWO))


def test_two_optimizers_with_other_rates(tmp_path):
    changes = dict(model=dict(type='TwoLines'), param_scheduler=[])
    run(tmp_path / 'run', 'epochs', send=(signal.SIGTERM, 'after_train_iter', 3), optim_wrapper=TWO, **changes)
    other = dict(TWO, optimizers=dict(body=dict(lr=0.001), head=dict(lr=0.0005)))
    code, said = run(tmp_path / 'run', 'epochs', resume=True, optim_wrapper=other, **changes)
    assert code == 0, said
    states = read_checkpoint(last_checkpoint(tmp_path / 'run'))['optimizer']
    assert [states[name]['param_groups'][0]['lr'] for name in ('body', 'head')] == [0.001, 0.0005]


@pytest.mark.parametrize('loop', LOOPS)
def test_a_sampler_by_epochs_under_either_loop(loop, tmp_path):
    changes = dict(train_dataloader__sampler=dict(type='DefaultSampler', shuffle=True))
    check(tmp_path, loop, (signal.SIGKILL, 'after_train_iter', 5), **changes)


SCHEDULES = {
    'ConstantLR': dict(factor=0.5, end=7),
    'CosineAnnealingLR': dict(T_max=4),
    'CosineRestartLR': dict(periods=[4, 5], restart_weights=[1, 0.5], eta_min=0.0),
    'ExponentialLR': dict(gamma=0.8),
    'LinearLR': dict(start_factor=0.1, end=7),
    'MultiStepLR': dict(milestones=[3, 6]),
    'OneCycleLR': dict(eta_max=0.02, total_steps=9),
    'PolyLR': dict(power=0.9),
    'StepLR': dict(step_size=2),
    'mmdet.QuadraticWarmupLR': dict(end=7),
    'mmseg.PolyLRRatio': dict(eta_min_ratio=0.1, power=0.9),
}


@pytest.mark.parametrize('kind', SCHEDULES)
def test_a_schedule(kind, tmp_path):
    """By iterations, across the fifth one."""
    schedule = dict(type=kind, by_epoch=False, **SCHEDULES[kind])
    check(tmp_path, 'iterations', (signal.SIGKILL, 'after_train_iter', 5), param_scheduler=[schedule])


@pytest.mark.parametrize('monitor', ['ReduceOnPlateauLR', 'StepLR'])
def test_a_schedule_by_scores_or_epochs(monitor, tmp_path):
    settings = dict(ReduceOnPlateauLR=dict(monitor='mean', rule='greater', patience=0, threshold=1e9))
    schedule = dict(type=monitor, by_epoch=True, **settings.get(monitor, dict(step_size=1)))
    check(tmp_path, 'epochs', (signal.SIGKILL, 'after_train_iter', 7), param_scheduler=[schedule])


@TRANSFORMS.register_module()
class Shift:
    """A pipeline of its own for :class:`Points`."""

    def __call__(self, info: dict) -> dict:
        sample = BaseDataElement(metainfo=dict(img_path=info['img_path']))
        return dict(inputs=torch.randn(4) + 5, data_samples=sample)


@pytest.mark.parametrize('iteration', [2, 4, 7])
@pytest.mark.parametrize('workers', [0, 1])
def test_a_pipeline_that_changes_during_the_run(iteration, workers, tmp_path):
    hooks = [RESUME, dict(type='mmdet.PipelineSwitchHook', switch_epoch=1, switch_pipeline=[dict(type='Shift')])]
    check(tmp_path, 'epochs', (signal.SIGKILL, 'after_train_iter', iteration), hooks, workers=workers)
    losses = read_checkpoint(last_checkpoint(tmp_path / 'whole'))['message_hub']['log_scalars']['train/loss'].data[0]
    assert len(set(losses.tolist())) == 9


@MODELS.register_module()
class PretrainedLine(Line):
    """A model with a module that is initialised by the weights in a file."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.extra = BaseModule(init_cfg=dict(type='Pretrained', checkpoint=source))
        self.extra.layer = nn.Linear(2, 2)


def test_pretrained_weights_are_read_only_where_the_checkpoint_does_not_replace_them(tmp_path):
    weights = {'layer.weight': torch.eye(2), 'layer.bias': torch.zeros(2)}
    torch.save(weights, tmp_path / 'weights.pth')
    model = dict(type='PretrainedLine', source=str(tmp_path / 'weights.pth'))
    assert run(tmp_path / 'run', 'epochs', model=model)[0] == 0
    trained = str(last_checkpoint(tmp_path / 'run'))
    gone = dict(type='PretrainedLine', source=str(tmp_path / 'gone.pth'))
    strict = dict(type='StrictLoadHook')
    changes = dict(model=gone, load_from=trained, train_cfg=LOOPS['epochs'] | dict(max_epochs=1))
    code, said = run(tmp_path / 'tuned', 'epochs', custom_hooks=[strict, RESUME], **changes)
    assert code == 0, said
    for hook in (strict | dict(reinitialise=['extra']), strict | dict(strict=False)):
        code, said = run(tmp_path / 'fresh', 'epochs', custom_hooks=[hook, RESUME], **changes)
        assert code == 1 and f'the weights {tmp_path}/gone.pth do not exist' in said, said


def test_one_flipped_bit_of_a_weight_is_noticed(tmp_path):
    run(tmp_path / 'run', 'epochs', send=(signal.SIGKILL, 'after_train_iter', 6))
    shutil.copytree(tmp_path / 'run', tmp_path / 'control')
    path = last_checkpoint(tmp_path / 'control')
    checkpoint = torch.load(path, weights_only=False)
    checkpoint['state_dict']['head.weight'].view(torch.int32)[0, 0] ^= 1
    torch.save(checkpoint, path)
    ends = []
    for name in ('run', 'control'):
        assert run(tmp_path / name, 'epochs', resume=True)[0] == 0
        ends.append(end_state(tmp_path / name))
    assert 'state_dict.head.weight' in differences(*ends)
