"""Two processes that share the weights, gradients and optimizer state train like two that hold all of them."""

import gc
import json
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.connection import wait
from pathlib import Path

import pytest
import torch
import torch.distributed.fsdp  # once, not in each process
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS, MODELS
from mmengine.structures import BaseDataElement
from torch import nn
from torch.distributed.tensor import DTensor

from backbones.errors import UserError
from backbones.safe_checkpoint import read_checkpoint
from mmengine_plugin.cli.config_checks import check_sharding
from mmengine_plugin.cli.launching import CPUDistributedDataParallel
from mmengine_plugin.engine.checkpoint_files import last_checkpoint
from mmengine_plugin.engine.compare_runs import differences, end_state
from mmengine_plugin.engine.sharding import ShardedDataParallel
from mmengine_plugin.engine.signals import EXIT_CODE
from tests.conftest import DETECTION, TIME_LIMIT
from tests.mmengine_plugin.engine.points import config
from tests.mmengine_plugin.engine.runs import train, train_in_a_process
from tests.mmengine_plugin.engine.small_recipes import settings

DDP, SHARDED = CPUDistributedDataParallel.__name__, ShardedDataParallel.__name__
ADAMW = dict(type='AdamW', lr=0.01)


@MODELS.register_module()
class Blocks(BaseModel):
    """Blocks, a batch norm, and parameters whose sizes two processes cannot halve.

    With ``partial``, only the second process uses one of the layers. With ``scalar``, a parameter has no dimension.
    """

    def __init__(self, partial: bool = False, scalar: bool = False) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 17)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(17, 33), nn.GELU(), nn.Linear(33, 17)) for _ in range(3)])
        self.norm, self.drop, self.head = nn.BatchNorm1d(17), nn.Dropout(0.2), nn.Linear(17, 1)
        self.extra = nn.Linear(17, 1) if partial else None
        self.scale = nn.Parameter(torch.tensor(1.0)) if scalar else None
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, inputs, data_samples, mode):
        x = self.stem(torch.stack(inputs))
        for block in self.blocks:
            x = x + block(x)
        x = self.drop(self.norm(x))
        out = self.head(x)
        if self.extra and get_rank() == 1:
            out = out + self.extra(x)
        if mode == 'loss':
            return dict(loss=(out - torch.stack(inputs).mean(1, keepdim=True)).square().mean())
        return [BaseDataElement(value=value) for value in out]


@HOOKS.register_module()
class Watch(Hook):
    """After the training, notes what this process holds, in bytes; the second process sends itself a signal before."""

    def __init__(self, number: int = 0, moment: str = 'after_train_iter', iteration: int = -1) -> None:
        def send(runner, *args, **kwargs):
            if number and runner.iter == iteration and get_rank() == 1:
                os.kill(os.getpid(), number)

        setattr(self, moment, send)

    def after_train(self, runner):
        held = list(runner.model.parameters())
        held += [value for state in runner.optim_wrapper.optimizer.state.values() for value in state.values()]
        own = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in held]
        note = dict(
            bytes=sum(tensor.untyped_storage().nbytes() for tensor in own),
            types=sorted({type(tensor).__name__ for tensor in runner.model.parameters()}),
        )
        Path(runner.work_dir, f'rank{get_rank()}.json').write_text(json.dumps(note))


def member(rank: int, processes: int, output: Path, cfg: Config) -> None:
    """Train as one of several processes."""
    sys.stdout = sys.stderr = output.open('a', buffering=1)
    gc.freeze()
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(processes), LOCAL_RANK=str(rank))
    torch.distributed.init_process_group('gloo', f'file://{output}.store', rank=rank, world_size=processes)
    train(cfg)


def train_together(work_dir: Path, cfg: Config, wrapper: str = SHARDED, processes: int = 2, code: int = 0) -> str:
    """Train in several processes; when one fails, end the others. Return the output of all."""
    output = work_dir.parent / f'{work_dir.name}.log'
    for path in (output, Path(f'{output}.store')):
        path.unlink(missing_ok=True)
    unused = dict(find_unused_parameters=True) if cfg.model.get('partial') and wrapper == DDP else {}
    cfg.update(launcher='pytorch', model_wrapper_cfg=dict(type=wrapper, **unused), work_dir=str(work_dir))
    fork = multiprocessing.get_context('fork').Process
    members = [fork(target=member, args=(rank, processes, output, cfg)) for rank in range(processes)]
    for process in members:
        process.start()
    running, deadline = list(members), time.monotonic() + TIME_LIMIT
    while running and time.monotonic() < deadline and {p.exitcode for p in members} <= {0, EXIT_CODE, None}:
        wait([process.sentinel for process in running], timeout=1)
        running = [process for process in running if process.is_alive()]
    for process in running:
        process.kill()
        process.join()
    said = output.read_text()
    codes = [process.exitcode for process in members]
    assert codes[1] == code and (code < 0 or codes == [code] * processes), (codes, said[-5000:])
    return said


def blocks(work_dir: Path, watch: dict | None = None, resume: bool = False, **changes: object) -> Config:
    """Nine iterations of :class:`Blocks`, with validations in which the processes have different numbers of images."""
    cfg = config(work_dir, 'iterations', resume=resume, **dict(model=dict(type='Blocks')) | changes)
    cfg['custom_hooks'] = [*cfg['custom_hooks'], dict(type='Watch', **watch or {})]
    cfg['val_dataloader'].update(batch_size=1, sampler=dict(type='DefaultSampler', shuffle=False, round_up=False))
    cfg['val_dataloader']['dataset'] = dict(type='Points', test_mode=True, indices=5)
    return Config(cfg, format_python_code=False)


def amp(dtype: str, **scale: object) -> dict:
    return dict(type='FiniteAmpOptimWrapper', optimizer=ADAMW, dtype=dtype, loss_scale=dict(growth_interval=2, **scale))


RESUME = dict(type='ResumeHook')
VARIATIONS = {
    'sgd and gradients of three iterations': dict(
        optim_wrapper=dict(
            type='FiniteOptimWrapper', optimizer=dict(type='SGD', lr=0.01, momentum=0.9), accumulative_counts=3
        )
    ),
    'bfloat16 and an average': dict(
        optim_wrapper=amp('bfloat16'), custom_hooks=[RESUME, dict(type='EMAHook', momentum=0.3)]
    ),
    # the first scale makes all gradients infinite, the second one makes none
    'fp16 and another average': dict(
        optim_wrapper=amp('float16', init_scale=2.0**60, backoff_factor=2.0**-50),
        custom_hooks=[RESUME, dict(type='EMAHook', ema_type='StochasticWeightAverage', update_buffers=True)],
    ),
    'a layer that one process uses': dict(model=dict(type='Blocks', partial=True)),
}


@pytest.mark.parametrize(
    'name', [pytest.param(name, marks=[] if name.startswith('fp16') else pytest.mark.full_size) for name in VARIATIONS]
)
def test_a_sharded_run_equals_that_of_ddp_to_the_last_bit_also_if_it_is_killed(name, tmp_path):
    """Without clipping, two processes add the same two numbers for each gradient, and a step is elementwise.

    Gradients of three iterations are added in another order: DDP adds those of a process first.
    """
    whole = {}
    for wrapper in (DDP, SHARDED):
        said = train_together(tmp_path / wrapper, blocks(tmp_path / wrapper, **VARIATIONS[name]), wrapper)
        assert ('was skipped because its gradients are not finite' in said) == name.startswith('fp16')
        whole[wrapper] = end_state(tmp_path / wrapper)
    assert len(whole[DDP]) > 50 and whole[DDP].keys() == whole[SHARDED].keys()
    for key, value in whole[DDP].items():
        if 'accumulative_counts' in VARIATIONS[name].get('optim_wrapper', ()):
            if isinstance(value, float | torch.Tensor):  # roundings of 6e-8, which batch norms of two values enlarge
                torch.testing.assert_close(*map(torch.as_tensor, (whole[SHARDED][key], value)), rtol=1e-3, atol=1e-5)
        else:
            assert differences({key: value}, {key: whole[SHARDED][key]}) == []
    kill = dict(number=signal.SIGKILL, iteration=4)  # the last checkpoint is that after four iterations
    run = tmp_path / 'run'
    train_together(run, blocks(run, kill, **VARIATIONS[name]), code=-signal.SIGKILL)
    assert last_checkpoint(run).name == 'iter_4.pth'
    said = train_together(run, blocks(run, resume=True, **VARIATIONS[name]))
    assert 'iter: 4' in said and differences(whole[SHARDED], end_state(run)) == []


@pytest.fixture(scope='module')
def plain(tmp_path_factory) -> dict[str, Path]:
    """The work directories of a run with DDP and of a sharded one."""
    folder = tmp_path_factory.mktemp('plain')
    for wrapper in (DDP, SHARDED):
        train_together(folder / wrapper, blocks(folder / wrapper), wrapper)
    return {wrapper: folder / wrapper for wrapper in (DDP, SHARDED)}


def test_a_run_with_another_seed_differs(plain, tmp_path):
    train_together(tmp_path / 'run', blocks(tmp_path / 'run', randomness=dict(seed=4)))
    assert 'state_dict.blocks.0.0.weight' in differences(end_state(plain[SHARDED]), end_state(tmp_path / 'run'))


def test_each_process_holds_about_half_of_weights_and_optimizer_state(plain):
    notes = {w: [json.loads((plain[w] / f'rank{rank}.json').read_text()) for rank in (0, 1)] for w in plain}
    whole = notes[DDP][0]['bytes']
    assert all(note['types'] == ['Parameter'] and note['bytes'] == whole for note in notes[DDP])
    assert all(note['types'] == ['DTensor'] for note in notes[SHARDED])
    # the first process has the longer part of a parameter of odd length, and the second one is padded to it
    assert all(note['bytes'] < 0.55 * whole for note in notes[SHARDED])
    assert sum(note['bytes'] for note in notes[SHARDED]) >= whole


@pytest.mark.parametrize('name', ['last', 'best'])
def test_checkpoints_are_those_of_ddp_in_keys_types_shapes_and_values(name, plain):
    one, other = (
        read_checkpoint(last_checkpoint(path) if name == 'last' else next(path.glob('best_*')))
        for path in plain.values()
    )
    assert list(one['state_dict']) == list(other['state_dict'])
    assert all(type(value) is torch.Tensor for value in other['state_dict'].values())
    assert differences(one['state_dict'], other['state_dict']) == []
    if name == 'last':
        states = [checkpoint['optimizer']['state'] for checkpoint in (one, other)]
        assert states[0].keys() == states[1].keys() and one['optimizer'].keys() == other['optimizer'].keys()
        for number, state in states[0].items():
            assert differences(state, states[1][number]) == []


@pytest.mark.parametrize('moment', ['before_train_iter', pytest.param('after_val_iter', marks=pytest.mark.full_size)])
def test_a_signal_to_one_process_lets_all_save_one_whole_checkpoint(moment, plain, tmp_path):
    """In a validation, each process has all weights, and with an EMAHook their average in place of them."""
    hooks = [RESUME, *([dict(type='EMAHook', momentum=0.3)] if moment == 'after_val_iter' else [])]
    send = dict(number=signal.SIGTERM, moment=moment, iteration=3)
    said = train_together(tmp_path / 'run', blocks(tmp_path / 'run', send, custom_hooks=hooks), code=EXIT_CODE)
    assert 'SIGTERM: saved at iteration' in said and last_checkpoint(tmp_path / 'run').name == 'interrupted.pth'
    train_together(tmp_path / 'run', blocks(tmp_path / 'run', resume=True, custom_hooks=hooks))
    whole = plain[SHARDED]
    if len(hooks) > 1:
        whole = tmp_path / 'whole'
        train_together(whole, blocks(whole, custom_hooks=hooks))
    assert differences(end_state(whole), end_state(tmp_path / 'run')) == []


@pytest.mark.full_size
def test_a_sharded_run_and_one_with_ddp_go_on_from_each_others_checkpoints(plain, tmp_path):
    for wrapper, other in ((DDP, SHARDED), (SHARDED, DDP)):
        run = tmp_path / wrapper
        cfg = blocks(run, resume=True)
        cfg.load_from = str(plain[other] / 'iter_8.pth')
        said = train_together(run, cfg, wrapper)
        assert 'iter: 8' in said and differences(end_state(plain[wrapper]), end_state(run)) == []
    # nothing of the whole states that were loaded remains in memory
    held, whole = (json.loads((path / 'rank1.json').read_text()) for path in (tmp_path / SHARDED, plain[DDP]))
    assert held['bytes'] < 0.6 * whole['bytes']


@pytest.mark.parametrize('processes', [1, pytest.param(3, marks=pytest.mark.full_size)])
def test_another_number_of_processes_goes_on_from_a_sharded_checkpoint(processes, plain, tmp_path):
    cfg = blocks(tmp_path / 'run', resume=True)
    cfg.load_from = str(plain[SHARDED] / 'iter_8.pth')
    if processes == 1:
        code, said = train_in_a_process(tmp_path / 'run.log', cfg)
        assert code == 0, said
    else:
        said = train_together(tmp_path / 'run', cfg, processes=processes)
    assert f'RESUMED UNDER OTHER CONDITIONS, processes 2 -> {processes}' in said
    assert end_state(tmp_path / 'run').keys() == end_state(plain[SHARDED]).keys()


def test_a_detector_trains_like_ddp_with_clipping_frozen_stages_recomputed_blocks_and_layer_wise_rates(
    mini_data, monkeypatch, tmp_path
):
    """A norm is summed in another order: its last bits differ, and by clipping so does every weight.

    fp32 has a relative accuracy of 6e-8. Over six iterations, the losses are within 1e-4.
    """
    monkeypatch.chdir(mini_data)
    ends, checkpoints = {}, {}
    for wrapper in (DDP, SHARDED):
        cfg = settings(tmp_path / wrapper, 'detection', 'epochs', 'fp32', 'plain')
        cfg.model.backbone.update(with_cp=True, frozen_stages=1)
        cfg.optim_wrapper.update(
            constructor='LayerDecayOptimWrapperConstructor', paramwise_cfg=dict(decay_rate=0.7, norm_decay_mult=0.0)
        )
        train_together(tmp_path / wrapper, cfg, wrapper)
        ends[wrapper] = end_state(tmp_path / wrapper)
        checkpoints[wrapper] = read_checkpoint(last_checkpoint(tmp_path / wrapper))
    assert ends[DDP].keys() == ends[SHARDED].keys()
    logged = [name for name in ends[DDP] if 'loss' in name or name.startswith('logged.train/grad_norm')]
    assert len(logged) > 20 and differences(*ends.values())
    for name in logged:
        assert ends[SHARDED][name] == pytest.approx(ends[DDP][name], rel=1e-4, abs=1e-6), name
    for name, value in checkpoints[DDP]['state_dict'].items():
        assert checkpoints[SHARDED]['state_dict'][name].shape == value.shape
    groups = [checkpoint['optimizer']['param_groups'] for checkpoint in checkpoints.values()]
    assert groups[0] == groups[1] and len({group['lr'] for group in groups[0]}) > 3


def test_the_norm_by_which_gradients_are_clipped_is_that_of_all_parts(plain, tmp_path):
    clip = dict(type='FiniteOptimWrapper', optimizer=dict(type='SGD', lr=0.01), clip_grad=dict(max_norm=0.1))
    ends = []
    for wrapper in (DDP, SHARDED):
        train_together(tmp_path / wrapper, blocks(tmp_path / wrapper, optim_wrapper=clip), wrapper)
        ends.append(end_state(tmp_path / wrapper))
    norms = [name for name in ends[0] if name.startswith('logged.train/grad_norm')]
    assert len(norms) == 9
    for name in (*norms, *(name for name in ends[0] if name.startswith('state_dict'))):
        # a few roundings of fp32; the norm of one process's part would be some tens of percent less
        torch.testing.assert_close(torch.as_tensor(ends[1][name]), torch.as_tensor(ends[0][name]), rtol=2e-5, atol=1e-6)


def test_a_parameter_that_cannot_be_divided_is_refused_before_the_first_step(tmp_path):
    said = train_together(tmp_path / 'run', blocks(tmp_path / 'run', model=dict(type='Blocks', scalar=True)), code=1)
    assert 'scale is a single number, which cannot be divided among processes' in said
    assert 'Iter(train)' not in said


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (dict(model_wrapper_cfg=dict(cpu_offload=True)), 'model_wrapper_cfg.cpu_offload=True is not known here'),
        (dict(model_wrapper_cfg=dict(use_orig_params=False)), 'use_orig_params=False is not known here'),
        (dict(find_unused_parameters=True), 'find_unused_parameters=True belongs to DDP'),
        (dict(train_cfg=dict(type='EpochBasedTrainLoop')), "'EpochBasedTrainLoop' would not exchange gradients"),
        (dict(default_hooks=dict(checkpoint=dict(type='CheckpointHook'))), "type must be 'SafeCheckpointHook'"),
        (dict(optim_wrapper=dict(clip_grad=dict(norm_type='inf'))), 'norm_type=inf fails'),
        (dict(compile=True), 'torch.compile cannot be combined with it'),
    ],
)
def test_what_cannot_be_combined_with_sharding_is_refused(change, words):
    cfg = Config.fromfile(DETECTION)
    cfg.model_wrapper_cfg = dict(type='MMFullyShardedDataParallel', use_orig_params=True)
    cfg.merge_from_dict(change)
    with pytest.raises(UserError, match=words.replace('.', r'\.')):
        check_sharding(cfg)


def test_the_line_that_mmengines_users_know_selects_our_wrapper():
    cfg = Config.fromfile(DETECTION)
    cfg.model_wrapper_cfg = dict(type='MMFullyShardedDataParallel', use_orig_params=True)
    check_sharding(cfg)
    assert cfg.model_wrapper_cfg == dict(type=SHARDED)
