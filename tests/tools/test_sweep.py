"""Several seeds of one config: what a sweep trains, repeats and reports."""

import contextlib
import io
import json
import math
import os
import re
import runpy
import shutil
import signal
import statistics
import sys
import threading
import time
from pathlib import Path

import pytest
from mmengine.config import Config
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from backbones.errors import UserError
from mmengine_plugin.analysis.seeds import check_evaluator, comparison, differences, summarize, table, validations
from mmengine_plugin.analysis.sweep_record import begin_seed, check_seeds, check_settings
from mmengine_plugin.cli.trainings import Trainings
from tests.conftest import CLASSIFICATION, ROOT

SEEDS = ('--seeds', 0, 7)
TOP1 = 'accuracy/top1'
STEPS = 8  # iterations of each run


def write_config(folder: Path) -> Path:
    """A config of a classifier of a few thousand parameters, with two epochs of four iterations."""
    path = folder / 'tiny.py'
    path.write_text(f"""
_base_ = {str(CLASSIFICATION)!r}
model = dict(backbone=dict(arch=dict(_delete_=True, depths=(1, 1, 1, 1), dims=(4, 8, 8, 8))))
data = dict(transform=dict(input_size=32))
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=data)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=data)
test_dataloader = val_dataloader
param_scheduler = dict(end=2, warmup=1, cooldown=0)
train_cfg = dict(max_epochs=2, val_interval=1)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2, save_best=None))
""")
    return path


@pytest.fixture(scope='module')
def config(tmp_path_factory) -> Path:
    return write_config(tmp_path_factory.mktemp('configs'))


def call(program: str, *arguments: object, cwd: Path) -> tuple[object, str]:
    """Call a program in this process, as its command line would.

    Returns:
        Its exit code, and what it printed.
    """
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.chdir(cwd)
        patch.syspath_prepend(ROOT / 'tools')
        patch.setattr(sys, 'argv', [program, *map(str, arguments)])
        try:
            runpy.run_path(str(ROOT / 'tools' / program))['main']()
        except SystemExit as end:
            return end.code, printed.getvalue()
    return 0, printed.getvalue()


@pytest.fixture(scope='module')
def data(tmp_path_factory) -> Path:
    """A folder with the mini ImageNet where the config looks for it."""
    folder = tmp_path_factory.mktemp('data')
    assert call('make_mini_dataset.py', 'imagenet', folder / 'data/mini/imagenet', '--images', 8, cwd=folder)[0] == 0
    return folder


@pytest.fixture(scope='module')
def swept(config, data, tmp_path_factory):
    """The folder of a sweep that was stopped once and started again, and the results of both commands.

    The training that is stopped is a program. Those after it run in this process, which has imported all they need.
    """
    work_dir = tmp_path_factory.mktemp('sweep')
    arguments = [config, *SEEDS, '--work-dir', work_dir, '--json', work_dir / 'found.json']

    def stop() -> None:
        while not ended.is_set() and not list(work_dir.glob('seed_0/*/vis_data/scalars.json')):
            time.sleep(0.01)
        if not ended.is_set():
            os.kill(os.getpid(), signal.SIGINT)

    ended, thread = threading.Event(), threading.Thread(target=stop)
    thread.start()
    try:
        code, printed = call('sweep.py', *arguments, cwd=data)
    finally:
        ended.set()
        thread.join()
    stopped = code, printed, sorted(path.name for path in work_dir.glob('seed_0/*.pth'))

    def train(_: Trainings, command: list) -> object:
        return call('train.py', *command[2:], cwd=data)[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainings, 'run', train)
        code, printed = call('sweep.py', *arguments, cwd=data)
    assert code == 0, printed
    return work_dir, stopped, printed


def test_a_signal_stops_the_run_in_progress_which_saves_first(swept):
    code, printed, checkpoints = swept[1]
    assert code == 75
    assert 'interrupted.pth' in checkpoints
    assert 'stopped at seed 0; the same command goes on from here' in printed


def lines(folder: Path) -> list[dict]:
    """What the logs of a run hold, in their order."""
    return [json.loads(line) for path in sorted(folder.glob('*/vis_data/scalars.json')) for line in path.open()]


def test_the_interrupted_seed_goes_on_and_every_step_of_each_seed_is_taken_once(swept):
    work_dir = swept[0]
    assert sorted(path.name for path in work_dir.glob('seed_*')) == ['seed_0', 'seed_7']
    losses = {}
    for seed in (0, 7):
        trained = [line for line in lines(work_dir / f'seed_{seed}') if 'loss' in line]
        assert [line['step'] for line in trained] == list(range(1, STEPS + 1))
        losses[seed] = [line['loss'] for line in trained]
    assert len(list(work_dir.glob('seed_0/*/vis_data'))) == 2 and len(list(work_dir.glob('seed_7/*/vis_data'))) == 1
    assert all(one != other for one, other in zip(*losses.values(), strict=True))


def test_the_table_has_what_the_runs_logged_with_mean_deviation_and_range(swept):
    work_dir, _, printed = swept
    values = [[line[TOP1] for line in lines(work_dir / f'seed_{seed}') if TOP1 in line] for seed in (0, 7)]
    assert [len(curve) for curve in values] == [2, 2]
    found = json.loads((work_dir / 'found.json').read_text())['sweeps'][str(work_dir)][TOP1]
    for kind, pair in dict(final=[c[-1] for c in values], best=[max(c) for c in values]).items():
        assert list(found[kind]['seeds'].values()) == pair
        assert found[kind]['mean'] == pytest.approx(sum(pair) / 2)
        assert found[kind]['std'] == pytest.approx(abs(pair[0] - pair[1]) / math.sqrt(2))
        assert (found[kind]['min'], found[kind]['max']) == (min(pair), max(pair))
        (row,) = [line for line in printed.splitlines() if line.startswith(f'| {TOP1} | {kind} | ')]
        assert f'| {pair[0]:.4g} | {pair[1]:.4g} |' in row and f'{min(pair):.4g} to {max(pair):.4g}' in row


def test_complete_seeds_are_not_repeated_and_other_settings_are_refused(config, swept, data):
    work_dir, _, printed = swept
    arguments = ['sweep.py', config, *SEEDS, '--work-dir', work_dir, '--cfg-options']
    code, again = call(*arguments, 'train_dataloader.num_workers=1', cwd=data)
    assert code == 0 and printed[printed.index('| score') :] in again
    assert len(list(work_dir.glob('seed_*/*/vis_data'))) == 3
    message = f'{work_dir} has a sweep with other settings, optim_wrapper.optimizer.lr: 0.0015 -> 0.01'
    with pytest.raises(UserError, match=re.escape(message)):
        call(*arguments, 'optim_wrapper.optimizer.lr=0.01', cwd=data)


def test_tensorboard_reads_the_scalars_of_training_and_validation_in_one_curve_after_a_resume(swept):
    folder = swept[0] / 'seed_0'
    curves: dict[str, list] = {'loss': [], TOP1: []}
    for path in sorted(folder.glob('*/vis_data')):
        events = EventAccumulator(str(path)).Reload()
        for name, curve in curves.items():
            curve += [(e.step, e.value) for e in events.Scalars(name)] if name in events.Tags()['scalars'] else []
    for name, curve in curves.items():
        logged = [(line['step'], line[name]) for line in lines(folder) if name in line]
        assert [step for step, _ in curve] == [step for step, _ in logged]
        assert [value for _, value in curve] == pytest.approx([value for _, value in logged], rel=1e-6)
    assert len(curves['loss']) == STEPS and len(curves[TOP1]) == 2


def write_log(work_dir: Path, timestamp: str, *content: dict | str) -> None:
    folder = work_dir / timestamp / 'vis_data'
    folder.mkdir(parents=True)
    text = [line if isinstance(line, str) else json.dumps(line) for line in content]
    (folder / 'scalars.json').write_text('\n'.join(text))


def test_logs_of_a_resumed_run_are_merged_by_step_and_the_later_validation_counts(tmp_path):
    first = [dict(loss=1.0, iter=5, step=5), dict(mIoU=1.0, time=3.0, step=10), dict(mIoU=2.0, time=3.0, step=20)]
    write_log(tmp_path, '20260101_000000', *first, '{"mIoU": 3')  # the last line was cut off by a kill
    write_log(tmp_path, '20260102_000000', dict(mIoU=2.5, step=20), dict(mIoU=3.5, data_time=1.0, step=30))
    assert validations(tmp_path) == [dict(mIoU=1.0, step=10), dict(mIoU=2.5, step=20), dict(mIoU=3.5, step=30)]


def runs(*finals: float) -> dict[int, list[dict]]:
    return {seed: [dict(mAP=0.9, loss=0.5, step=1), dict(mAP=v, loss=v, step=2)] for seed, v in enumerate(finals)}


def test_the_best_validation_is_the_highest_score_or_the_lowest_loss():
    found = summarize(runs(0.4, 0.6))
    assert found['mAP']['best']['seeds'] == {0: 0.9, 1: 0.9}
    assert found['loss']['best']['seeds'] == {0: 0.4, 1: 0.5}
    assert found['mAP']['final']['seeds'] == {0: 0.4, 1: 0.6}


def test_scores_that_are_not_defined_are_left_out():
    undefined = {seed: [dict(mAP=0.1, mAP_l=-1.0, rare=math.nan, step=1)] for seed in (0, 1)}
    assert list(summarize(undefined)) == ['mAP']


def test_one_seed_has_no_spread():
    with pytest.raises(UserError, match='one seed: no spread'):
        summarize(runs(0.4))


def test_differences_and_their_errors_are_those_of_welchs_test():
    values = dict(one=(0.4, 0.43, 0.46), other=(0.5, 0.56))
    found = differences({name: summarize(runs(*finals)) for name, finals in values.items()})['other']['mAP']['final']
    welch = stats.ttest_ind(values['other'], values['one'], equal_var=False)
    pooled = stats.ttest_ind(values['other'], values['one'], equal_var=True)
    assert found['mean'] / found['error'] == pytest.approx(welch.statistic)
    assert found['mean'] / found['error'] != pytest.approx(pooled.statistic, rel=1e-3)
    assert found['mean'] == pytest.approx(0.1)


def test_several_sweeps_stand_side_by_side_with_their_differences_from_the_first():
    sweeps = dict(a=summarize(runs(0.4, 0.5)), b=summarize(runs(0.7, 0.7)))
    (row,) = [line for line in comparison(sweeps).splitlines() if line.startswith('| mAP | final ')]
    std = statistics.stdev([0.4, 0.5])
    expected = f'0.45 ± {std:.2g} (n = 2) | 0.7 ± 0 (n = 2) | +0.25 ± {std / math.sqrt(2):.2g} |'
    assert row == f'| mAP | final | {expected}'
    widths = {line.count('|') for line in comparison(sweeps).splitlines()}
    assert len(widths) == 1 and len({line.count('|') for line in table(sweeps['a']).splitlines()}) == 1


@pytest.fixture
def reported(tmp_path) -> Path:
    """A folder with two sweeps of two complete seeds each: ``one`` and ``other``."""
    for name, finals in dict(one=(0.4, 0.5), other=(0.6, 0.8)).items():
        (tmp_path / name).mkdir()
        check_settings(tmp_path / name, Config())
        for seed, run in runs(*finals).items():
            begin_seed(tmp_path / name, seed)
            (tmp_path / f'{name}/seed_{seed}').mkdir()
            (tmp_path / f'{name}/seed_{seed}/scores.json').write_text(json.dumps(run))
    return tmp_path


def report(folder: Path, *arguments: object) -> str:
    code, printed = call('sweep.py', '--report', *arguments, cwd=folder)
    assert code == 0
    return printed


def test_a_report_trains_nothing_and_names_the_scores_that_there_are(reported):
    printed = report(reported, 'one', 'other', '--scores', 'mAP', '--json', 'found.json')
    assert '| mAP | final | 0.4 | 0.5 | 0.45 | 0.071 | 0.4 to 0.5 |' in printed and '| loss' not in printed
    assert '+0.25 ± 0.11' in printed
    found = json.loads((reported / 'found.json').read_text())['differences']['other']
    assert found['mAP']['final']['mean'] == pytest.approx(0.25)
    with pytest.raises(UserError, match='seed_0 has no score mIoU; it has loss, mAP'):
        report(reported, 'one', '--scores', 'mAP', 'mIoU')


def test_a_copy_of_a_seeds_folder_does_not_belong_to_the_sweep(reported):
    before = report(reported, 'one')
    for name in ('seed_0_old', 'seed_5'):
        shutil.copytree(reported / 'one/seed_0', reported / 'one' / name)
    assert report(reported, 'one') == before


def test_a_report_of_named_seeds_has_these_alone(reported):
    begin_seed(reported / 'one', 5)
    shutil.copytree(reported / 'one/seed_1', reported / 'one/seed_5')
    assert '| seed 0 | seed 1 | seed 5 |' in report(reported, 'one')
    assert '| seed 0 | seed 5 | mean |' in report(reported, 'one', '--seeds', 0, 5)
    with pytest.raises(UserError, match='one has no complete seed 7; it has 0, 1, 5'):
        report(reported, 'one', '--seeds', 0, 7)


def test_sweeps_of_one_name_are_told_apart_by_their_paths_and_one_sweep_is_not_compared_with_itself(reported):
    (reported / 'more').mkdir()
    shutil.copytree(reported / 'other', reported / 'more/one')
    assert 'one: mean ± std | more/one: mean ± std | more/one - one |' in report(reported, 'one', 'more/one')
    with pytest.raises(UserError, match='--report one more/../one names a folder twice'):
        report(reported, 'one', 'more/../one')


@pytest.mark.parametrize('content', ['', '{"settings": ', '[]', '{"settings": {}}'])
def test_a_damaged_record_of_a_sweep_is_named_with_what_to_do(content, reported):
    (reported / 'one/sweep.json').write_text(content)
    message = 'one/sweep.json is damaged.* or begin another sweep with another --work-dir'
    with pytest.raises(UserError, match=message):
        report(reported, 'one')
    with pytest.raises(UserError, match=message):
        call('sweep.py', CLASSIFICATION, '--work-dir', 'one', cwd=reported)


def test_damaged_scores_of_a_seed_are_named_with_what_to_do(reported):
    (reported / 'one/seed_1/scores.json').write_text('[{"mAP": ')
    with pytest.raises(UserError, match='one/seed_1/scores.json is damaged: remove it, and start the sweep again'):
        report(reported, 'one')


def test_a_run_that_the_sweep_has_not_begun_is_refused_before_anything_is_trained(tmp_path):
    (tmp_path / 'sw/seed_7/20260101_000000').mkdir(parents=True)  # by train.py, with another seed
    message = re.escape(
        'sw/seed_7 was not begun by this sweep, so its seed and settings may be others: move it (mv sw/'
    )
    for _ in range(2):
        with pytest.raises(UserError, match=message):
            call('sweep.py', CLASSIFICATION, *SEEDS, '--work-dir', 'sw', cwd=tmp_path)
    assert not (tmp_path / 'sw/seed_0').exists()
    check_seeds(tmp_path / 'sw', [0])
    begin_seed(tmp_path / 'sw', 0)
    (tmp_path / 'sw/seed_0/20260101_000000').mkdir(parents=True)
    check_seeds(tmp_path / 'sw', [0])
    with pytest.raises(UserError, match='seed_7 was not begun'):
        begin_seed(tmp_path / 'sw', 7)


def test_a_score_that_cannot_be_known_before_stops_the_sweep_after_its_first_seed(tmp_path, monkeypatch):
    trained = []

    def train(_: Trainings, command: list) -> int:
        trained.append(Path(command[command.index('--work-dir') + 1]))
        write_log(trained[-1], '20260101_000000', dict(val_loss=0.5, step=1))
        return 0

    monkeypatch.setattr(Trainings, 'run', train)
    arguments = ['sweep.py', CLASSIFICATION, *SEEDS, '--work-dir', 'sw', '--scores']
    with pytest.raises(UserError, match=r"sw/seed_0 has no score val_los.*'val_loss'.*; it has val_loss"):
        call(*arguments, 'val_losss', cwd=tmp_path)
    assert [path.name for path in trained] == ['seed_0']
    code, printed = call(*arguments, 'val_loss', cwd=tmp_path)  # the seed is not lost
    assert code == 0 and '| val_loss | final | 0.5 | 0.5 |' in printed
    assert [path.name for path in trained] == ['seed_0', 'seed_7']


def test_scores_are_refused_before_only_if_it_is_known_which_there_are(tmp_path):
    cfg = Config.fromfile(CLASSIFICATION)
    check_evaluator(cfg, [TOP1])
    with pytest.raises(UserError, match='val_evaluator has no score accuracy/top2.*it has accuracy/top1'):
        check_evaluator(cfg, [TOP1, 'accuracy/top2'])
    cfg.val_evaluator = [cfg.val_evaluator, dict(type='DumpResults', out_file_path=f'{tmp_path}/x.pkl')]
    check_evaluator(cfg, ['accuracy/top2'])  # of mmengine's metrics, it is not known what they give


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--seeds', 3], '--seeds 3: one seed: no spread. Name two or more, from 0 on'),
        (['--seeds', 0, 0], '--seeds 0: one seed: no spread'),
        (['--report', 'x'], 'name either a config or, with --report, folders of sweeps'),
        (['--cfg-options', 'randomness.seed=3'], 'randomness.seed: the seeds of a sweep are set by --seeds'),
        (['--cfg-options', 'val_dataloader=None'], 'has no val_dataloader and val_evaluator, whose scores a sweep'),
        (['--json', '/proc/x.json'], 'cannot write to /proc: '),
        (['--json', '.'], '--json . is a folder: name a file'),
        (['--scores', TOP1, 'nosuch'], 'val_evaluator has no score nosuch; it has accuracy/top1, accuracy/top5'),
    ],
)
def test_a_wrong_command_is_refused_before_anything_is_trained(arguments, message, tmp_path):
    with pytest.raises(UserError, match=re.escape(message)):
        call('sweep.py', CLASSIFICATION, *arguments, cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_settings_on_which_no_number_depends_may_change_and_the_others_may_not(tmp_path):
    cfg = Config(dict(model=dict(depth=1), train_dataloader=dict(batch_size=2, num_workers=4), randomness=dict(seed=0)))
    check_settings(tmp_path, cfg, gpus=None)
    begin_seed(tmp_path, 0)
    cfg.merge_from_dict({'train_dataloader.num_workers': 8, 'randomness.seed': 5, 'work_dir': 'x'})
    check_settings(tmp_path, cfg, gpus=None)
    with pytest.raises(UserError, match='gpus: None -> 8'):
        check_settings(tmp_path, cfg, gpus=8)
    cfg.model.depth = 2
    with pytest.raises(UserError, match='model.depth: 1 -> 2: seeds can be compared only under the same ones'):
        check_settings(tmp_path, cfg, gpus=None)


def test_a_second_sweep_in_the_same_folder_is_refused_while_a_training_of_a_killed_one_still_runs(tmp_path):
    os.mkfifo(tmp_path / 'pipe')
    sweep = os.fork()
    if not sweep:  # a process whose training waits for the end of the pipe
        Trainings(tmp_path).run(['sh', '-c', f'read line < {tmp_path}/pipe'])
        os._exit(0)
    pipe = (tmp_path / 'pipe').open('w')  # it opens when the training has begun to read
    os.kill(sweep, signal.SIGKILL)
    os.waitpid(sweep, 0)
    with pytest.raises(UserError, match='another sweep is running there'):
        Trainings(tmp_path)
    pipe.close()  # the training ends
    for _ in range(1000):
        with contextlib.suppress(UserError), Trainings(tmp_path) as trainings:
            assert trainings.run(['true']) == 0
            return
        time.sleep(0.05)
    pytest.fail('the folder is still locked')


def test_a_training_is_not_in_the_process_group_to_which_ctrl_c_goes(tmp_path):
    with Trainings(tmp_path) as trainings:
        assert trainings.run([sys.executable, '-c', 'import os; assert os.getpgid(0) == os.getpid()']) == 0
