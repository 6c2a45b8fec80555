"""Runs of a Slurm array that reach their time limit save, are queued again, and go on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmengine_plugin.engine.signals import EXIT_CODE
from tests.conftest import FAST, ROOT, SEGMENTATION

# srun for one machine and one process; like Slurm's, it passes signals on
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
export SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODELIST=here
trap 'kill -USR1 $task' USR1
"$@" & task=$!
wait $task; code=$?
while kill -0 $task 2> /dev/null; do wait $task; code=$?; done
exit $code
"""
SCONTROL = """#!/usr/bin/env bash
[[ $1 == requeue ]] && echo "$2" >> requeued || echo 127.0.0.1
"""
# at the time limit, Slurm signals the batch script, which is the parent of srun
CONFIG = """
_base_ = {base!r}
custom_imports = dict(imports=['mmseg_plugin', 'time_limit'], allow_failed_imports=False)
custom_hooks = [dict(type='TimeLimit')]
train_dataloader = dict(batch_size=2)
train_cfg = dict(max_iters=4, val_interval=4)
param_scheduler = [dict(type='ConstantLR', factor=1.0, by_epoch=False, end=4)]
default_hooks = dict(checkpoint=dict(interval=4))
"""
HOOK = """
import os, pathlib, signal, time
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class TimeLimit(Hook):
    def after_train_iter(self, runner, *args, **kwargs):
        marker = pathlib.Path(runner.work_dir, 'time_limit')
        if runner.iter == 1 and marker.exists():
            os.kill(int(marker.read_text()), signal.SIGUSR1)
            marker.unlink()
            time.sleep(1)  # until the signal has come through
"""


@pytest.fixture
def cluster(mini_data, tmp_path) -> Path:
    """A folder to submit from, with data, a config, and Slurm's commands in bin/."""
    (tmp_path / 'tools').symlink_to(ROOT / 'tools')
    (tmp_path / 'data').symlink_to(mini_data / 'data')
    (tmp_path / 'mine.py').write_text(CONFIG.format(base=str(SEGMENTATION)))
    (tmp_path / 'time_limit.py').write_text(HOOK)
    for folder in ('bin', 'spool'):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / 'tools/slurm_array.sh', tmp_path / 'spool/slurm_script')  # what Slurm runs
    for name, text in (('srun', SRUN), ('scontrol', SCONTROL)):
        (tmp_path / 'bin' / name).write_text(text)
        (tmp_path / 'bin' / name).chmod(0o755)
    return tmp_path


def run_task(cluster: Path, number: int | None, limited: str = '', python: str = sys.executable) -> tuple[int, str]:
    """Run a task of the array, which reaches its time limit in a work directory; return its exit code and output."""
    own = dict(PATH=f'{cluster}/bin:{os.environ["PATH"]}', PYTHON=python, PYTHONPATH=str(cluster))
    own |= dict(SLURM_SUBMIT_DIR=str(cluster), SLURM_JOB_ID='12345', OMP_NUM_THREADS='1', HF_HUB_OFFLINE='1')
    if number is not None:
        own['SLURM_ARRAY_TASK_ID'] = str(number)
    script = subprocess.Popen(
        ['bash', cluster / 'spool/slurm_script', 'runs.txt'],
        cwd=cluster,
        env=os.environ | own,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if limited:
        (cluster / limited).mkdir()
        (cluster / limited / 'time_limit').write_text(str(script.pid))
    said, _ = script.communicate(timeout=600)
    return script.returncode, said


def test_a_task_that_runs_out_of_time_is_queued_again_and_goes_on(cluster):
    options = ['--cfg-options', *FAST]
    (cluster / 'runs.txt').write_text(f'mine.py --work-dir another\nmine.py --work-dir limited {" ".join(options)}\n')
    code, said = run_task(cluster, 2, limited='limited')
    assert code == EXIT_CODE and 'SIGUSR1: saved at iteration' in said, said[-3000:]
    assert (cluster / 'requeued').read_text() == '12345\n'
    code, said = run_task(cluster, 2)
    assert code == 0 and 'iter: 2' in said and (cluster / 'limited/iter_4.pth').exists(), said[-3000:]
    assert (cluster / 'requeued').read_text() == '12345\n'  # once
    assert not (cluster / 'another').exists()


@pytest.mark.parametrize('code', [1, EXIT_CODE])
def test_a_task_that_fails_or_is_stopped_by_its_user_is_not_queued_again(code, cluster):
    (cluster / 'runs.txt').write_text('mine.py\n')
    program = cluster / 'bin/program'
    program.write_text(f'#!/usr/bin/env bash\nexit {code}\n')
    program.chmod(0o755)
    assert run_task(cluster, 1, python=str(program)) == (code, '')
    assert not (cluster / 'requeued').exists()


def test_a_task_without_a_line_and_a_script_without_an_array_say_what_to_do(cluster):
    (cluster / 'runs.txt').write_text('mine.py --work-dir one\n')
    assert run_task(cluster, 2) == (2, 'error: runs.txt has no run in line 2\n')
    code, said = run_task(cluster, None)
    assert code == 2 and 'sbatch --array=1-4' in said and not (cluster / 'requeued').exists()
