"""Several processes train and test like one, on a machine without GPUs, by torchrun and by Slurm."""

import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tests.conftest import CLASSIFICATION, DETECTION, FAST, ROOT, SEGMENTATION, TIME_LIMIT

# nothing is random, a process has one batch in each step, and each process saves its weights
COMMON = """
_base_ = {base!r}
custom_imports = dict(imports=[{plugin!r}, 'leave_weights'], allow_failed_imports=False)
custom_hooks = [dict(type='LeaveWeights'), dict(type='DieOnce')]
sgd = dict(type='SGD', lr=0.01)
optim_wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=sgd, clip_grad=dict(max_norm=1.0))
param_scheduler = []
"""
DETECTOR = """
train_dataloader = dict(batch_size=1, dataset=dict(filter_cfg=dict(filter_empty_gt=False), pipeline=[
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(224, 160), keep_ratio=True), dict(type='PackDetInputs')]))
every = dict(sampler=dict(num=10**6))
model = dict(train_cfg=dict(rpn=every, rcnn=every, rpn_proposal=dict(max_per_img=20)))
train_cfg = dict(max_epochs=1, val_interval=1)
"""
SEGMENTOR = """
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
    dict(type='Resize', scale=(128, 128)), dict(type='PackSegInputs')]))
sync = dict(type='SyncBN', requires_grad=True)
# a pooled map of one pixel has no variance
head = dict(dropout_ratio=0, norm_cfg=sync)
model = dict(decode_head=dict(head, pool_scales=(2, 3)), auxiliary_head=head)
"""
CLASSIFIER = """
train_dataloader = dict(
    batch_size=2,
    dataset=dict(transform=dict(_delete_=True, input_size=64, crop_pct=1.0, interpolation='bicubic')),
    collate_fn=dict(mixup=dict(prob=0.0)))
model = dict(data_preprocessor=dict(erasing=None))
train_cfg = dict(max_epochs=1)
"""
HOOK = """
import os, pathlib, signal
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class DieOnce(Hook):
    def before_train_iter(self, runner, batch_idx, data_batch=None):
        marker = pathlib.Path(runner.work_dir, 'die')
        if runner.iter == 3 and get_rank() == 1 and marker.exists():
            marker.unlink()
            os.kill(os.getpid(), signal.SIGKILL)

@HOOKS.register_module()
class LeaveWeights(Hook):
    def after_train(self, runner):
        model = getattr(runner.model, 'module', runner.model)
        torch.save(dict(model.named_parameters()), f'{runner.work_dir}/rank{get_rank()}.pt')
"""
# srun for one machine: it starts one process for each task, with its number in the environment
SRUN = """#!/usr/bin/env bash
for arg in "$@"; do case $arg in --ntasks=*) export SLURM_NTASKS=${arg#*=} ;; --*) ;; *) break ;; esac; shift; done
echo "srun starts $SLURM_NTASKS processes"
for i in $(seq 0 $((SLURM_NTASKS - 1))); do SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_NODELIST=here "$@" & done
code=0; for job in $(jobs -p); do wait $job || code=$?; done; exit $code
"""


@pytest.fixture(scope='module')
def project(tool, tmp_path_factory) -> Path:
    """A folder with data (3 validation images, of the classifier 6), configs, and Slurm's commands in bin/."""
    folder = tmp_path_factory.mktemp('project')
    for kind in ('coco', 'ade20k', 'imagenet'):
        made = tool('make_mini_dataset.py', kind, folder / 'data/mini' / kind, '--images', 12)
        assert made.returncode == 0, made.stdout
    (folder / 'leave_weights.py').write_text(HOOK)
    for base, plugin, text in (
        (DETECTION, 'mmdet_plugin', DETECTOR),
        (SEGMENTATION, 'mmseg_plugin', SEGMENTOR),
        (CLASSIFICATION, 'timm_plugin', CLASSIFIER),
    ):
        (folder / f'my_{plugin.removesuffix("_plugin")}.py').write_text(
            COMMON.format(base=str(base), plugin=plugin) + text
        )
    (folder / 'bin').mkdir()
    for name, text in (('srun', SRUN), ('scontrol', '#!/usr/bin/env bash\necho 127.0.0.1\n')):
        (folder / 'bin' / name).write_text(text)
        (folder / 'bin' / name).chmod(0o755)
    return folder


def launch(script: str, *arguments: object, cwd: Path, exit_code: int = 0, **environment: object) -> str:
    """Run a launcher with this Python and the replacements of Slurm's commands; return its output."""
    own = dict(PYTHON=sys.executable, PYTHONPATH=str(cwd), PATH=f'{cwd}/bin:{os.environ["PATH"]}')
    own['OMP_NUM_THREADS'] = '1'  # torchrun's own choice, but not for a single process; sums depend on it
    process = subprocess.Popen(
        [ROOT / 'tools' / script, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | own | {k: str(v) for k, v in environment.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=TIME_LIMIT)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has started
        said, _ = process.communicate()
    assert process.returncode == exit_code, said[-5000:]
    return said


def iterations(config: str, number: int) -> list[str]:
    """Options for a short run; a detector and a classifier run for one epoch."""
    length = [f'train_cfg.max_iters={number}', f'train_cfg.val_interval={number}'] if config == 'my_mmseg.py' else []
    return ['--cfg-options', *FAST, *length, f'default_hooks.checkpoint.interval={number if length else 1}']


@pytest.mark.parametrize(
    'config', [pytest.param('my_mmdet.py', marks=pytest.mark.full_size), 'my_mmseg.py', 'my_timm.py']
)
def test_two_processes_train_and_test_like_one(config, project, tool, free_port, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(project))
    two, one = project / f'{config}_two', project / f'{config}_one'
    said = launch('dist_train.sh', config, 2, '--work-dir', two, *iterations(config, 3), cwd=project, PORT=free_port)
    assert ('SyncBN becomes BN' in said) == (config == 'my_mmseg.py')
    assert len(list(two.glob('*/*.log'))) == 1
    options = [*iterations(config, 6), 'optim_wrapper.accumulative_counts=2']
    done = tool('train.py', config, '--work-dir', one, *options, cwd=project)
    assert done.returncode == 0, done.stdout[-3000:]
    ranks, single = [torch.load(two / f'rank{rank}.pt') for rank in (0, 1)], torch.load(one / 'rank0.pt')
    for name, value in single.items():
        assert torch.equal(ranks[0][name], ranks[1][name]), name  # one model in both processes
        torch.testing.assert_close(ranks[0][name], value, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f'{n}: {m}')
    checkpoint = two / (two / 'last_checkpoint').read_text()
    scores = []
    for work_dir in (two, one):
        arguments = ['--work-dir', work_dir / 'test', '--json', work_dir / 'scores.json', '--cfg-options', *FAST]
        if work_dir == two:
            launch('dist_test.sh', config, checkpoint, 2, *arguments, cwd=project, PORT=free_port)
        else:
            done = tool('test.py', config, checkpoint, *arguments, cwd=project)
            assert done.returncode == 0, done.stdout[-3000:]
        scores.append(json.loads((work_dir / 'scores.json').read_text()))
    assert scores[0] == scores[1]  # each image is counted once


def test_slurm_starts_as_many_processes_as_asked_for(project, free_port):
    common = dict(GPUS=2, CPUS_PER_TASK=1, MASTER_PORT=free_port, cwd=project)
    options = [*iterations('my_mmseg.py', 2)]
    said = launch('slurm_train.sh', 'part', 'job', 'my_mmseg.py', project / 'slurm', *options, **common)
    assert 'srun starts 2 processes' in said
    ranks = [torch.load(project / f'slurm/rank{rank}.pt') for rank in (0, 1)]
    assert all(torch.equal(value, ranks[1][name]) for name, value in ranks[0].items())
    arguments = ['--work-dir', project / 'slurm/test', '--json', project / 'slurm/scores.json', '--cfg-options', *FAST]
    launch('slurm_test.sh', 'part', 'job', 'my_mmseg.py', project / 'slurm/iter_2.pth', *arguments, **common)
    assert json.loads((project / 'slurm/scores.json').read_text())['mIoU'] >= 0


def test_two_hosts_train_one_model_and_a_lost_process_changes_nothing(project, free_port):
    """Two agents on this machine find each other by MASTER_ADDR and PORT; then one agent restarts lost processes."""
    # of 3 validation images one process has two, and the other process does not wait for it
    options = [*iterations('my_mmseg.py', 4), 'default_hooks.checkpoint.interval=2']
    options = ['--resume', *options, 'val_dataloader.sampler.round_up=False']
    hosts, lost = project / 'hosts', project / 'lost'
    environment = dict(NNODES=2, MASTER_ADDR='127.0.0.1', PORT=free_port)
    arguments = ['my_mmseg.py', 1, '--work-dir', hosts, *options]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda i: launch('dist_train.sh', *arguments, cwd=project, NODE_RANK=i, **environment), range(2)))
    ranks = [torch.load(hosts / f'rank{rank}.pt') for rank in (0, 1)]
    assert all(torch.equal(value, ranks[1][name]) for name, value in ranks[0].items())

    lost.mkdir()
    (lost / 'die').touch()
    arguments[1:4] = [2, '--work-dir', lost]
    said = launch('dist_train.sh', *arguments, cwd=project, PORT=free_port, MAX_RESTARTS=2)
    assert 'process 1 was ended by SIGKILL: restart 1 of 2' in said and 'resumed epoch: 0, iter: 2' in said
    for rank in (0, 1):
        weights = torch.load(lost / f'rank{rank}.pt')
        assert all(torch.equal(value, weights[name]) for name, value in ranks[rank].items())


def test_a_port_in_use_and_a_process_that_fails_are_reported_without_the_traceback_of_torchrun(tmp_path, free_port):
    with socket.create_server(('127.0.0.1', 0)) as server:
        said = launch('dist_train.sh', DETECTION, 1, cwd=tmp_path, PORT=server.getsockname()[1], exit_code=1)
    assert 'error: the processes cannot meet: set PORT to a port that is free' in said and 'Traceback' not in said
    options = ['--work-dir', tmp_path, '--cfg-options', 'lr=1']
    environment = dict(PORT=free_port, MAX_RESTARTS=1)  # it would fail again
    said = launch('dist_train.sh', DETECTION, 1, *options, cwd=tmp_path, exit_code=1, **environment)
    assert said.count("error: --cfg-options lr: 'lr' exists nowhere") == 1 and 'Traceback' not in said


def test_a_number_of_machines_that_may_change_is_refused(tmp_path):
    said = launch('dist_train.sh', DETECTION, 1, cwd=tmp_path, NNODES='1:2', exit_code=2)
    assert said == 'error: NNODES must be the number of machines, not 1:2: a run keeps its number of machines\n'


def test_a_crash_and_a_kill_use_up_the_restarts(tmp_path, free_port):
    config = tmp_path / 'config.py'
    config.write_text("""
os = __import__('os')
os.kill(os.getpid(), 9) if int(os.environ['TORCHELASTIC_RESTART_COUNT']) else 1 / 0
""")
    said = launch('dist_train.sh', config, 1, cwd=tmp_path, exit_code=1, PORT=free_port, MAX_RESTARTS=1)
    assert 'process 0 was ended by ZeroDivisionError: division by zero: restart 1 of 1' in said
    assert said.splitlines()[-1].startswith('error: process 0 was ended by SIGKILL;')


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh', 'slurm_train.sh', 'slurm_test.sh'])
def test_a_launcher_without_arguments_prints_its_usage(script):
    done = subprocess.run([ROOT / 'tools' / script], capture_output=True, text=True)
    assert done.returncode == 2 and f'tools/{script} ' in done.stderr
