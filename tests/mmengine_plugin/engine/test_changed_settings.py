"""Settings that are changed for the rest of a run take effect, as if the run had had them from its beginning."""

import signal

import pytest

from backbones.safe_checkpoint import read_checkpoint
from mmengine_plugin.engine.checkpoint_files import last_checkpoint
from mmengine_plugin.engine.compare_runs import differences, end_state
from tests.mmengine_plugin.engine.points import LOOPS, run

WRAPPER = dict(type='FiniteOptimWrapper', optimizer=dict(type='AdamW', lr=0.01))
WARM_UP = dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=5)
LENGTHS = dict(epochs=('max_epochs', 3), iterations=('max_iters', 9))


def poly(loop: str, factor: int = 1) -> list[dict]:
    """A warm-up and a decay to 0 over the whole run, or over one that is ``factor`` times as long."""
    end = LENGTHS[loop][1] * factor
    begin = 1 if loop == 'epochs' else 5
    return [WARM_UP, dict(type='PolyLR', power=1.0, eta_min=0.0, by_epoch=loop == 'epochs', begin=begin, end=end)]


def learning_rates(work_dir) -> list[float]:
    """The learning rate of each iteration."""
    return read_checkpoint(last_checkpoint(work_dir))['message_hub']['log_scalars']['train/lr'].data[0].tolist()


def interrupted(work_dir, loop: str, **settings) -> None:
    """A run that is asked to exit after 5 iterations."""
    send = (signal.SIGTERM, 'before_train_iter', 4)
    code, said = run(work_dir, loop, send=send, **settings)
    assert code == 75, said


def longer(loop: str) -> dict:
    key, length = LENGTHS[loop]
    return LOOPS[loop] | {key: 2 * length}


CHANGES = {
    'a lower rate': lambda loop: dict(optim_wrapper=WRAPPER | dict(optimizer=dict(type='AdamW', lr=0.002))),
    'a longer run and schedule': lambda loop: dict(train_cfg=longer(loop), param_scheduler=poly(loop, 2)),
    'one more schedule': lambda loop: dict(
        param_scheduler=[*poly(loop), dict(type='MultiStepLR', milestones=[5], gamma=0.1, by_epoch=False, end=99)]
    ),
}


@pytest.mark.parametrize('loop', LOOPS)
@pytest.mark.parametrize('change', CHANGES)
def test_the_rates_are_those_of_a_run_with_the_new_settings_from_the_beginning(loop, change, tmp_path):
    changes = dict(param_scheduler=poly(loop)) | CHANGES[change](loop)
    interrupted(tmp_path / 'run', loop, param_scheduler=poly(loop))
    before = learning_rates(tmp_path / 'run')
    code, said = run(tmp_path / 'run', loop, resume=True, **changes)
    assert code == 0 and 'go on with the present settings' in said, said
    assert run(tmp_path / 'other', loop, **changes)[0] == 0
    rates, expected = learning_rates(tmp_path / 'run'), learning_rates(tmp_path / 'other')
    assert rates[:5] == before
    assert rates[5:] == expected[5:]
    assert run(tmp_path / 'unchanged', loop, param_scheduler=poly(loop))[0] == 0
    assert rates[:9] != learning_rates(tmp_path / 'unchanged')


def test_a_run_that_has_ended_can_be_extended(tmp_path):
    """mmengine would go on with the schedule in the checkpoint, at rate 0."""
    assert run(tmp_path / 'run', 'iterations', param_scheduler=poly('iterations'))[0] == 0
    assert learning_rates(tmp_path / 'run')[-1] == 0
    changes = dict(train_cfg=longer('iterations'), param_scheduler=poly('iterations', 2))
    assert run(tmp_path / 'run', 'iterations', resume=True, **changes)[0] == 0
    assert learning_rates(tmp_path / 'run')[9:] == pytest.approx([0.01 * (1 - (i - 5) / 12) for i in range(9, 18)])


def test_other_numbers_of_the_optimizer_take_effect(tmp_path):
    interrupted(tmp_path / 'run', 'epochs')
    optimizer = dict(type='AdamW', lr=0.01, weight_decay=0.5, betas=(0.8, 0.99))
    code, said = run(tmp_path / 'run', 'epochs', resume=True, optim_wrapper=WRAPPER | dict(optimizer=optimizer))
    assert code == 0 and 'optim_wrapper.optimizer.weight_decay: not set -> 0.5' in said, said
    checkpoint = read_checkpoint(last_checkpoint(tmp_path / 'run'))
    group = checkpoint['optimizer']['param_groups'][0]
    assert (group['weight_decay'], tuple(group['betas'])) == (0.5, (0.8, 0.99))
    assert checkpoint['optimizer']['state'][0]['step'].item() == 9  # its state is that of the whole run


@pytest.mark.parametrize('loop', LOOPS)
def test_a_setting_that_is_written_out_and_was_the_default_changes_no_bit(loop, tmp_path):
    assert run(tmp_path / 'whole', loop)[0] == 0
    interrupted(tmp_path / 'run', loop)
    default = dict(type='AdamW', lr=0.01, eps=1e-8)
    code, said = run(tmp_path / 'run', loop, resume=True, optim_wrapper=WRAPPER | dict(optimizer=default))
    assert code == 0 and 'go on with the present settings' in said, said
    assert differences(end_state(tmp_path / 'whole'), end_state(tmp_path / 'run')) == []


def test_parameter_groups_each_keep_their_own_rate(tmp_path):
    paramwise = WRAPPER | dict(paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=10))))
    interrupted(tmp_path / 'run', 'epochs', optim_wrapper=paramwise)
    lower = paramwise | dict(optimizer=dict(type='AdamW', lr=0.001))
    assert run(tmp_path / 'run', 'epochs', resume=True, optim_wrapper=lower)[0] == 0
    groups = read_checkpoint(last_checkpoint(tmp_path / 'run'))['optimizer']['param_groups']
    assert sorted({group['lr'] for group in groups}) == pytest.approx([0.001, 0.01])


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (
            dict(optim_wrapper=dict(type='FiniteOptimWrapper', optimizer=dict(type='SGD', lr=0.01))),
            "optim_wrapper.optimizer.type: 'AdamW' -> 'SGD'",
        ),
        (
            dict(optim_wrapper=WRAPPER | dict(paramwise_cfg=dict(bias_lr_mult=2.0))),
            'the optimizer of the checkpoint has 1 groups of parameters',
        ),
        (
            dict(optim_wrapper=WRAPPER | dict(optimizer=dict(type='AdamW', lr=0.01, amsgrad=True))),
            'optim_wrapper.optimizer.amsgrad: not set -> True',
        ),
        (
            dict(param_scheduler=[dict(type='ReduceOnPlateauLR', monitor='mean', by_epoch=True)]),
            'ReduceOnPlateauLR depends on earlier scores',
        ),
    ],
)
def test_what_cannot_be_changed_is_refused(changes, words, tmp_path):
    interrupted(tmp_path / 'run', 'epochs')
    code, said = run(tmp_path / 'run', 'epochs', resume=True, **changes)
    assert code == 1 and words in said and 'load_from' in said.splitlines()[-1], said


def test_a_schedule_by_scores_goes_on_in_a_longer_run_with_clipping(tmp_path):
    plateau = dict(param_scheduler=[dict(type='ReduceOnPlateauLR', monitor='mean', by_epoch=True)])
    interrupted(tmp_path / 'run', 'epochs', **plateau)
    wrapper = WRAPPER | dict(clip_grad=dict(max_norm=1.0), max_bad_steps=3)
    code, said = run(
        tmp_path / 'run', 'epochs', resume=True, train_cfg=longer('epochs'), optim_wrapper=wrapper, **plateau
    )
    assert code == 0 and last_checkpoint(tmp_path / 'run').name == 'iter_18.pth', said


def test_another_batch_at_the_end_of_an_epoch_lets_the_schedules_go_on_at_this_epoch(tmp_path):
    """Schedules by iterations, too, and a step of several iterations; an epoch has 6 iterations, and 2 afterwards."""
    cosine = dict(type='CosineAnnealingLR', by_epoch=True, T_max=3, end=3, convert_to_iter_based=True)
    changes = dict(
        model=dict(type='Line', norm=False),
        param_scheduler=[cosine],
        optim_wrapper=WRAPPER | dict(accumulative_counts=4),
        default_hooks__checkpoint=dict(type='SafeCheckpointHook', interval=1),
    )
    send = (signal.SIGKILL, 'after_train_iter', 7)
    assert run(tmp_path / 'run', 'epochs', send=send, train_dataloader__batch_size=1, **changes)[0] == -signal.SIGKILL
    code, said = run(tmp_path / 'run', 'epochs', resume=True, train_dataloader__batch_size=3, **changes)
    assert code == 0 and 'batch_size 1 -> 3' in said and 'resumed epoch: 1, iter: 2' in said, said
    assert run(tmp_path / 'other', 'epochs', train_dataloader__batch_size=3, **changes)[0] == 0
    assert learning_rates(tmp_path / 'run')[6:] == learning_rates(tmp_path / 'other')[2:]


@pytest.mark.parametrize('hooks', [[dict(type='EMAHook', momentum=0.5)], []])
def test_a_run_with_averaged_weights_is_not_resumed_without_the_average(hooks, tmp_path):
    resume, average = dict(type='ResumeHook'), dict(type='EMAHook', momentum=0.3)
    send = dict(type='Send', number=signal.SIGTERM, moment='before_train_iter', iteration=4)
    assert run(tmp_path / 'run', 'epochs', custom_hooks=[resume, average, send])[0] == 75
    code, said = run(tmp_path / 'run', 'epochs', resume=True, custom_hooks=[resume, *hooks])
    if hooks:
        assert code == 0 and 'custom_hooks.EMAHook.momentum: 0.3 -> 0.5' in said, said
    else:
        assert code == 1 and 'this run has no EMAHook' in said.splitlines()[-1], said


@pytest.mark.parametrize('now', [dict(type='FiniteOptimWrapper'), dict(type='FiniteAmpOptimWrapper', loss_scale=4.0)])
def test_gradients_of_a_step_that_is_not_complete_are_given_the_new_loss_scale(now, tmp_path):
    """The update of the step is that of an undisturbed run, but for the rounding of fp16."""
    sgd = dict(optimizer=dict(type='SGD', lr=0.01), accumulative_counts=3)
    before = dict(type='FiniteAmpOptimWrapper', loss_scale=1024.0, **sgd)
    changes = dict(model=dict(type='Line', norm=False), param_scheduler=[])
    start = weights(tmp_path, 'start', 3, optim_wrapper=before, **changes)
    undisturbed = weights(tmp_path, 'whole', 6, optim_wrapper=before, **changes) - start
    run(tmp_path / 'run', 'epochs', send=(signal.SIGKILL, 'after_train_iter', 4), optim_wrapper=before, **changes)
    resumed = weights(tmp_path, 'run', 6, resume=True, optim_wrapper=dict(now, **sgd), **changes) - start
    assert (resumed - undisturbed).norm() < 0.02 * undisturbed.norm()


def weights(tmp_path, name: str, iterations: int, **changes):
    """The weights of the head after some iterations."""
    every = dict(type='SafeCheckpointHook', by_epoch=False, interval=1)
    code, said = run(tmp_path / name, 'epochs', default_hooks__checkpoint=every, **changes)
    assert code == 0, said
    return read_checkpoint(tmp_path / name / f'iter_{iterations}.pth')['state_dict']['head.weight']
