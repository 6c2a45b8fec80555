"""A run that is killed, interrupted, damaged or moved goes on as if nothing had happened, to the last bit.

The model and its data are small, so that a run takes a fraction of a second and can be killed at every moment.
``tools/soak.py`` does the same with a detector and a segmentor.
"""

import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from backbones import UserError
from backbones.safe_checkpoint import read_checkpoint
from mmengine_plugin.atomic_files import AtomicFileBackend
from mmengine_plugin.engine.checkpoint_files import checkpoints, last_checkpoint
from mmengine_plugin.engine.compare_runs import differences, end_state
from mmengine_plugin.engine.signals import EXIT_CODE
from tests.conftest import DETECTION, FAST, SEGMENTATION
from tests.mmengine_plugin.engine.points import LOOPS, config, run

OLD_CHECKPOINTS = Path(__file__).parent / 'version_0.1'  # of the run in points.py, at iteration 4


@pytest.fixture(scope='module', params=LOOPS)
def whole(request, tmp_path_factory):
    """The kind of loop, and what an uninterrupted run ends with."""
    work_dir = tmp_path_factory.mktemp(request.param) / 'whole'
    code, said = run(work_dir, request.param)
    assert code == 0, said
    return request.param, end_state(work_dir)


def assert_goes_on(work_dir: Path, whole: tuple, **settings) -> str:
    """Resume a run, and compare its end with that of the uninterrupted one."""
    code, said = run(work_dir, whole[0], resume=True, **settings)
    assert code == 0, said
    assert differences(whole[1], end_state(work_dir)) == []
    return said


def test_a_run_of_another_seed_differs(whole, tmp_path):
    assert run(tmp_path / 'run', whole[0], randomness=dict(seed=4))[0] == 0
    assert 'state_dict.head.weight' in differences(whole[1], end_state(tmp_path / 'run'))


@pytest.mark.parametrize('iteration', range(0, 9, 2))
def test_a_kill_at_any_step_changes_nothing(whole, iteration, tmp_path):
    code, said = run(tmp_path / 'run', whole[0], send=(signal.SIGKILL, 'after_train_iter', iteration))
    assert code == -signal.SIGKILL, said
    assert_goes_on(tmp_path / 'run', whole)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_lets_the_run_save_and_leave_in_the_middle_of_an_epoch(whole, number, tmp_path):
    code, said = run(tmp_path / 'run', whole[0], send=(number, 'before_train_iter', 4), workers=1)
    assert code == EXIT_CODE, said
    assert f'{number.name}: saved at iteration 5; --resume goes on from here' in said
    assert (tmp_path / 'run/last_checkpoint').read_text() == 'interrupted.pth'
    assert 'resumed epoch: ' in assert_goes_on(tmp_path / 'run', whole)
    assert not (tmp_path / 'run/interrupted.pth').exists()


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_before_the_first_step_is_not_lost(whole, number, tmp_path):
    """The data is loaded by then, which may take minutes."""
    code, said = run(tmp_path / 'run', whole[0], send=(number, 'before_run', 0))
    assert code == EXIT_CODE and f'{number.name}: saved at iteration 1' in said, said
    assert_goes_on(tmp_path / 'run', whole)


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_a_validation_that_was_cut_off_runs_again(whole, number, tmp_path):
    code, said = run(tmp_path / 'run', whole[0], send=(number, 'after_val_iter', 3))
    assert code == (EXIT_CODE if number == signal.SIGTERM else -number), said
    assert not list((tmp_path / 'run').glob('best_*'))
    assert_goes_on(tmp_path / 'run', whole)


def test_an_average_of_the_weights_survives_a_signal_in_a_validation(tmp_path):
    """In a validation, the model has the average in place of its own weights."""
    hooks = [dict(type='ResumeHook'), dict(type='EMAHook', momentum=0.3)]
    assert run(tmp_path / 'whole', 'epochs', custom_hooks=hooks)[0] == 0
    send = dict(type='Send', number=signal.SIGTERM, moment='after_val_iter', iteration=3)
    assert run(tmp_path / 'run', 'epochs', custom_hooks=[*hooks, send])[0] == EXIT_CODE
    code, said = run(tmp_path / 'run', 'epochs', resume=True, custom_hooks=hooks)
    assert code == 0 and differences(end_state(tmp_path / 'whole'), end_state(tmp_path / 'run')) == [], said


def test_what_was_given_up_for_an_older_checkpoint_is_not_resumed(whole, tmp_path):
    run(tmp_path / 'run', whole[0], send=(signal.SIGKILL, 'after_train_iter', 6))
    newest, older = checkpoints(tmp_path / 'run')
    changes = dict(resume=True, load_from=str(older))
    run(tmp_path / 'run', whole[0], send=(signal.SIGTERM, 'before_train_iter', 4), **changes)
    assert newest.exists() and last_checkpoint(tmp_path / 'run').name == 'interrupted.pth'
    assert_goes_on(tmp_path / 'run', whole)


def test_a_validation_that_was_not_cut_off_runs_once(whole, tmp_path):
    run(tmp_path / 'run', whole[0], send=(signal.SIGKILL, 'before_train_iter', 3))
    code, said = run(tmp_path / 'run', whole[0], resume=True)
    assert code == 0 and 'iter: 3' in said and 'was cut off' not in said, said


def test_workers_and_validations_change_no_random_number(whole, tmp_path):
    assert run(tmp_path / 'workers', whole[0], workers=2)[0] == 0
    assert differences(whole[1], end_state(tmp_path / 'workers')) == []
    loop = {**LOOPS[whole[0]], 'val_interval': 100}
    assert run(tmp_path / 'unvalidated', whole[0], train_cfg=loop)[0] == 0
    weights = [
        {k: v for k, v in c.items() if k.startswith('state_dict')}
        for c in (whole[1], end_state(tmp_path / 'unvalidated'))
    ]
    assert differences(*weights) == []


def test_augmentation_differs_from_epoch_to_epoch(tmp_path):
    """Also if workers start anew in each epoch; with mmengine's own seeds they would repeat themselves."""
    drawn = {}

    class Watch(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            for value, sample in zip(data_batch['inputs'], data_batch['data_samples'], strict=True):
                drawn.setdefault(sample.img_path, []).append(value)

    settings = config(tmp_path, 'epochs', workers=1)
    settings['train_dataloader']['persistent_workers'] = False
    settings['experiment_name'] = tmp_path.name
    runner = Runner.from_cfg(settings)
    runner.register_hook(Watch())
    runner.train()
    assert len(drawn) == 6
    for values in drawn.values():
        assert len({tuple(value.tolist()) for value in values}) == 3


@pytest.mark.parametrize('stride', [61, pytest.param(7, marks=pytest.mark.full_size)])
def test_after_a_kill_while_a_checkpoint_is_written_another_one_is_good(stride, tmp_path):
    """The run is killed after every ``stride`` lines of the code that writes, names or removes checkpoints."""
    assert run(tmp_path / 'whole', 'epochs')[0] == 0
    whole, kills, lines = ('epochs', end_state(tmp_path / 'whole')), 0, stride
    while (result := run(tmp_path / 'run', 'epochs', lines=lines))[0] != 0:
        assert result[0] == -signal.SIGKILL, result[1]
        left = sorted(path.name for path in (tmp_path / 'run').glob('iter_*'))
        assert bool(last_checkpoint(tmp_path / 'run')) == bool(left)
        if kills % 8 == 0:
            assert_goes_on(tmp_path / 'run', whole)
        shutil.rmtree(tmp_path / 'run')
        kills, lines = kills + 1, lines + stride
    assert kills >= (50 if stride == 7 else 10)


DAMAGES = {
    'truncated': lambda path: path.write_bytes(path.read_bytes()[:1000]),
    'empty': lambda path: path.write_bytes(b''),
    'one bit flipped': lambda path: flip(path),
    'half renamed': lambda path: path.rename(path.with_name(f'.123.part.{path.name}')),
}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b'\x00' * 16) - 40] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize('damage', DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_by_its_name(whole, damage, tmp_path):
    run(tmp_path / 'run', whole[0], send=(signal.SIGKILL, 'after_train_iter', 6))
    newest, older = checkpoints(tmp_path / 'run')
    DAMAGES[damage](newest)
    assert last_checkpoint(tmp_path / 'run') == older
    said = assert_goes_on(tmp_path / 'run', whole)
    assert damage == 'half renamed' or f'{newest} is damaged and skipped' in said
    assert not list((tmp_path / 'run').glob('.*.part.*'))


def test_only_damaged_checkpoints_are_an_error(whole, tmp_path):
    run(tmp_path / 'run', whole[0], send=(signal.SIGKILL, 'after_train_iter', 6))
    for path in checkpoints(tmp_path / 'run'):
        path.write_bytes(b'')
    with pytest.raises(UserError, match='all 2 checkpoints of .* are damaged'):
        last_checkpoint(tmp_path / 'run')


def test_a_work_directory_that_was_moved_resumes(whole, tmp_path):
    run(tmp_path / 'run', whole[0], send=(signal.SIGKILL, 'after_train_iter', 6))
    assert (tmp_path / 'run/last_checkpoint').read_text() == 'iter_6.pth'
    shutil.move(tmp_path / 'run', tmp_path / 'moved')
    assert_goes_on(tmp_path / 'moved', whole)


@pytest.fixture
def disk(tmp_path):
    """A folder with a disk of its own, of 256 kB."""
    (folder := tmp_path / 'disk').mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=256k', 'none', folder], capture_output=True).returncode:
        pytest.skip('this user may not mount a small disk')
    yield folder
    subprocess.run(['umount', folder], check=True)


@pytest.mark.parametrize('trouble', ['No space left on device', 'Read-only file system'])
def test_a_disk_that_takes_no_more_leaves_the_last_checkpoint_good(trouble, disk):
    work_dir = disk / 'run'
    code, said = run(work_dir, 'epochs', send=(signal.SIGKILL, 'after_train_iter', 4))
    assert code == -signal.SIGKILL, said
    last, files = last_checkpoint(work_dir), sorted(work_dir.rglob('*'))
    if trouble.startswith('No space'):
        with pytest.raises(OSError, match='No space'), (disk / 'ballast').open('wb') as file:
            for _ in range(1024):
                file.write(b'0' * 512)
                file.flush()
    else:
        subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)
    with pytest.raises(UserError, match=f'cannot write {work_dir}/iter_6.pth: {trouble}'):
        AtomicFileBackend().put(b'0' * 30_000, work_dir / 'iter_6.pth')
    assert last_checkpoint(work_dir) == last
    assert sorted(work_dir.rglob('*')) == files


def test_gradients_that_are_not_finite_stop_the_run_by_the_images_names(whole, tmp_path):
    code, said = run(tmp_path / 'run', whole[0], train_dataloader__dataset=dict(type='Points', bad=2))
    assert (
        code == 1 and 'are not finite, and 0 steps before it were skipped' in said and '2.jpg' in said.splitlines()[-1]
    ), said
    if last := last_checkpoint(tmp_path / 'run'):
        assert all(v.isfinite().all() for v in torch.load(last, weights_only=False)['state_dict'].values())


def test_steps_may_be_left_out_up_to_a_count(whole, tmp_path):
    wrapper = dict(type='FiniteOptimWrapper', optimizer=dict(type='AdamW', lr=0.01), max_bad_steps=2)
    data = dict(type='Points', bad=2)
    changes = dict(train_dataloader__dataset=data, optim_wrapper=wrapper)
    code, said = run(tmp_path / 'run', whole[0], model=dict(type='Line', norm=False), **changes)
    assert code == 0 and said.count('was skipped because its gradients are not finite') == 3, said
    weights = [v for k, v in end_state(tmp_path / 'run').items() if k.startswith('state_dict')]
    assert all(value.isfinite().all() for value in weights)
    code, said = run(tmp_path / 'norm', whole[0], **changes)  # the statistics of a batch norm have changed
    assert code == 1 and 'body.1.running_mean is not finite' in said, said


def test_out_of_memory_names_the_settings_to_lower(whole, tmp_path):
    code, said = run(tmp_path / 'run', whole[0], model=dict(type='Line', memory=False))
    assert code == 1 and 'out of GPU memory at iteration 1 with images of' in said.splitlines()[-1], said
    assert 'train_dataloader.batch_size' in said and 'model.backbone.with_cp=True' in said


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(train_dataloader__batch_size=3), 'batch_size 2 -> 3'),
        (dict(train_dataloader__dataset=dict(type='Points', indices=5)), 'images 6 -> 5'),
        (
            dict(train_dataloader__dataset=dict(type='Points', metainfo=dict(classes=('a', 'c')))),
            'the classes a, b (2)',
        ),
    ],
)
def test_other_conditions_are_refused_within_an_epoch_and_reported_otherwise(whole, changes, words, tmp_path):
    run(tmp_path / 'run', whole[0], send=(signal.SIGKILL, 'after_train_iter', 5))  # iteration 4: within an epoch
    code, said = run(tmp_path / 'run', whole[0], resume=True, **changes)
    assert words in said, said
    refused = whole[0] == 'epochs' or 'classes' in words
    assert code == (1 if refused else 0), said
    assert ('RESUMED UNDER OTHER CONDITIONS' in said) == (not refused)


def test_other_settings_are_reported(whole, tmp_path):
    run(tmp_path / 'run', whole[0], send=(signal.SIGKILL, 'after_train_iter', 5))
    wrapper = dict(type='FiniteOptimWrapper', optimizer=dict(type='AdamW', lr=0.02))
    code, said = run(tmp_path / 'run', whole[0], resume=True, optim_wrapper=wrapper)
    assert code == 0 and 'optim_wrapper.optimizer.lr: 0.01 -> 0.02' in said, said


def test_a_checkpoint_of_version_0_1_is_resumed(whole, tmp_path):
    """It was written before modules and registered types were renamed, and its settings name the old types."""
    (tmp_path / 'run').mkdir()
    shutil.copy(OLD_CHECKPOINTS / f'{whole[0]}.pth', tmp_path / 'run/iter_4.pth')
    code, said = run(tmp_path / 'run', whole[0], resume=True)
    assert code == 0 and 'iter: 4' in said, said
    assert 'resumed with other settings' not in said
    # another processor computed the checkpoint, so that last bits differ, which AdamW enlarges
    before, after = weights(OLD_CHECKPOINTS / f'{whole[0]}.pth'), weights(last_checkpoint(tmp_path / 'run'))
    assert run(tmp_path / 'whole', whole[0])[0] == 0
    expected = weights(last_checkpoint(tmp_path / 'whole'))
    assert (after - expected).norm() < 0.01 * (before - expected).norm()


def weights(checkpoint: Path) -> torch.Tensor:
    """The parameters behind the batch norm, in one vector; those before it have gradients near 0."""
    state = read_checkpoint(checkpoint)['state_dict']
    return torch.cat([state[name].flatten() for name in ('body.1.weight', 'head.weight', 'head.bias')])


def test_a_changed_setting_of_a_checkpoint_of_version_0_1_is_reported(whole, tmp_path):
    (tmp_path / 'run').mkdir()
    shutil.copy(OLD_CHECKPOINTS / f'{whole[0]}.pth', tmp_path / 'run/iter_4.pth')
    code, said = run(tmp_path / 'run', whole[0], resume=True, model=dict(type='Line', memory=True))
    assert code == 0 and 'resumed with other settings:\n  model.memory: not set -> True' in said, said


@pytest.mark.full_size
@pytest.mark.parametrize('base', [DETECTION, SEGMENTATION])
def test_a_model_that_is_killed_ends_as_an_uninterrupted_one(base, tool, mini_data, tmp_path):
    length = ['train_cfg.max_epochs=2', 'train_cfg.val_interval=1', 'default_hooks.checkpoint.by_epoch=False']
    if base == SEGMENTATION:
        length = ['train_cfg.max_iters=6', 'train_cfg.val_interval=3', 'train_dataloader.num_workers=2']
    options = [*FAST, *length, 'default_hooks.checkpoint.interval=2', 'train_dataloader.persistent_workers=False']
    done = tool('soak.py', base, tmp_path / 'soak', '--kills', 1, '--cfg-options', *options, cwd=mini_data)
    assert done.returncode == 0, done.stdout
    assert '1 kills' in done.stdout and 'all equal to the undisturbed one to the last bit' in done.stdout
