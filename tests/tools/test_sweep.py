"""Several seeds of one config: what a sweep trains, repeats and reports."""

import contextlib
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mmengine.config import Config
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from backbones.errors import UserError
from mmengine_plugin.analysis.seeds import check_settings, comparison, differences, summarize, table, validations
from mmengine_plugin.cli.trainings import Trainings
from mmengine_plugin.engine.signals import SIGNALS
from tests.conftest import CLASSIFICATION, ROOT

SEEDS = ('--seeds', 0, 7)
TOP1 = 'accuracy/top1'
STEPS = 12  # iterations of each run


def write_config(folder: Path) -> Path:
    """A config of a classifier of a few thousand parameters, with three epochs of four iterations."""
    path = folder / 'tiny.py'
    path.write_text(f"""
_base_ = {str(CLASSIFICATION)!r}
model = dict(backbone=dict(arch=dict(_delete_=True, depths=(1, 1, 1, 1), dims=(4, 8, 8, 8))))
data = dict(transform=dict(input_size=32))
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=data)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=data)
test_dataloader = val_dataloader
param_scheduler = dict(end=3, warmup=1, cooldown=0)
train_cfg = dict(max_epochs=3, val_interval=1)
default_hooks = dict(logger=dict(interval=1))
""")
    return path


@pytest.fixture(scope='module')
def config(tmp_path_factory) -> Path:
    return write_config(tmp_path_factory.mktemp('configs'))


@pytest.fixture(scope='module')
def swept(config, tool, mini_data, tmp_path_factory):
    """The folder of a sweep that was stopped once and started again, and the results of both commands."""
    work_dir = tmp_path_factory.mktemp('sweep')
    arguments = list(map(str, [config, *SEEDS, '--work-dir', work_dir, '--json', work_dir / 'found.json']))
    with (work_dir / 'log.txt').open('w') as log:
        command = [sys.executable, ROOT / 'tools/sweep.py', *arguments]
        process = subprocess.Popen(command, cwd=mini_data, stdout=log, stderr=log, start_new_session=True)
        while process.poll() is None and not list(work_dir.glob('seed_0/*/vis_data/scalars.json')):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: to the whole process group
        process.wait()
    stopped = process.returncode, sorted(path.name for path in work_dir.glob('seed_0/*.pth'))
    finished = tool('sweep.py', *arguments, cwd=mini_data)
    assert finished.returncode == 0, finished.stdout[-3000:]
    return work_dir, stopped, finished.stdout


def test_a_signal_stops_the_run_in_progress_which_saves_first(swept):
    work_dir, (code, checkpoints), _ = swept
    assert code == 75
    assert 'interrupted.pth' in checkpoints
    assert 'stopped at seed 0; the same command goes on from here' in (work_dir / 'log.txt').read_text()


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
    assert [len(curve) for curve in values] == [3, 3]
    found = json.loads((work_dir / 'found.json').read_text())['sweeps'][str(work_dir)][TOP1]
    for kind, pair in dict(final=[c[-1] for c in values], best=[max(c) for c in values]).items():
        assert list(found[kind]['seeds'].values()) == pair
        assert found[kind]['mean'] == pytest.approx(sum(pair) / 2)
        assert found[kind]['std'] == pytest.approx(abs(pair[0] - pair[1]) / math.sqrt(2))
        assert (found[kind]['min'], found[kind]['max']) == (min(pair), max(pair))
        (row,) = [line for line in printed.splitlines() if line.startswith(f'| {TOP1} | {kind} | ')]
        assert f'| {pair[0]:.4g} | {pair[1]:.4g} |' in row and f'{min(pair):.4g} to {max(pair):.4g}' in row


def test_complete_seeds_are_not_repeated_and_other_settings_are_refused(config, swept, tool, mini_data):
    work_dir, _, printed = swept
    arguments = ['sweep.py', config, *SEEDS, '--work-dir', work_dir, '--cfg-options']
    again = tool(*arguments, 'train_dataloader.num_workers=1', cwd=mini_data)
    assert again.returncode == 0 and printed[printed.index('| score') :] in again.stdout
    assert len(list(work_dir.glob('seed_*/*/vis_data'))) == 3
    other = tool(*arguments, 'optim_wrapper.optimizer.lr=0.01', cwd=mini_data)
    assert other.returncode == 1
    assert f'{work_dir} has a sweep with other settings, optim_wrapper.optimizer.lr: 0.0015 -> 0.01' in other.stdout


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
    assert len(curves['loss']) == STEPS and len(curves[TOP1]) == 3


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


def test_a_report_trains_nothing_and_names_the_scores_that_there_are(tool, tmp_path):
    for name, finals in dict(one=(0.4, 0.5), other=(0.6, 0.8)).items():
        for seed, run in runs(*finals).items():
            (tmp_path / f'{name}/seed_{seed}').mkdir(parents=True)
            (tmp_path / f'{name}/seed_{seed}/scores.json').write_text(json.dumps(run))
    done = tool('sweep.py', '--report', 'one', 'other', '--scores', 'mAP', '--json', 'found.json', cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert '| mAP | final | 0.4 | 0.5 | 0.45 | 0.071 | 0.4 to 0.5 |' in done.stdout and '| loss' not in done.stdout
    assert '+0.25 ± 0.11' in done.stdout
    found = json.loads((tmp_path / 'found.json').read_text())['differences']['other']
    assert found['mAP']['final']['mean'] == pytest.approx(0.25)
    wrong = tool('sweep.py', '--report', 'one', '--scores', 'mIoU', cwd=tmp_path)
    assert wrong.returncode == 1 and 'one has no score mIoU; it has mAP, loss' in wrong.stdout


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--seeds', 3], '--seeds 3: one seed: no spread. Name two or more, from 0 on'),
        (['--seeds', 0, 0], '--seeds 0: one seed: no spread'),
        (['--report', 'x'], 'name either a config or, with --report, folders of sweeps'),
        (['--cfg-options', 'randomness.seed=3'], 'randomness.seed: the seeds of a sweep are set by --seeds'),
        (['--cfg-options', 'val_dataloader=None'], 'has no val_dataloader and val_evaluator, whose scores a sweep'),
    ],
)
def test_a_wrong_command_is_refused_before_anything_is_trained(arguments, message, tool, tmp_path):
    done = tool('sweep.py', CLASSIFICATION, *arguments, cwd=tmp_path)
    assert done.returncode == 1 and message in done.stdout
    assert not list(tmp_path.iterdir())


def test_settings_on_which_no_number_depends_may_change_and_the_others_may_not(tmp_path):
    cfg = Config(dict(model=dict(depth=1), train_dataloader=dict(batch_size=2, num_workers=4), randomness=dict(seed=0)))
    check_settings(tmp_path, cfg, gpus=None)
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
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    with pytest.raises(UserError, match='another sweep is running there'):
        Trainings(tmp_path)
    pipe.close()  # the training ends
    try:
        for _ in range(1000):
            with contextlib.suppress(UserError):
                assert Trainings(tmp_path).run(['true']) == 0
                return
            time.sleep(0.05)
        pytest.fail('the folder is still locked')
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
