"""Detectors and segmentors that are killed in the middle of an epoch end as uninterrupted ones, to the last bit."""

import shutil
import signal
from collections.abc import Callable, Sequence
from itertools import combinations, product

import pytest
import torch

from mmengine_plugin.engine.checkpoint_files import last_checkpoint
from mmengine_plugin.engine.compare_runs import differences, end_state
from tests.mmengine_plugin.engine.runs import train_in_a_process
from tests.mmengine_plugin.engine.small_recipes import LOOPS, PRECISIONS, TASKS, VARIATIONS, settings


def lose_a_step(checkpoint: dict) -> None:
    """Make a checkpoint claim one more step than it has."""
    checkpoint['meta']['iter'] += 1


def flip_a_bit(checkpoint: dict) -> None:
    """Flip a bit of a weight; the checksum of the file will fit."""
    weight = next(iter(checkpoint['state_dict'].values()))
    weight.view(torch.int32).view(-1)[0] ^= 1 << 20


CHANGES: dict[str, Callable[[dict], None]] = {'a lost step': lose_a_step, 'a flipped bit': flip_a_bit}
CONTROLS = ('another seed', *CHANGES)  # each makes a run end differently
FACTORS = (tuple(LOOPS), TASKS, tuple(PRECISIONS), tuple(VARIATIONS), CONTROLS)
CASES = [
    ('epochs', 'detection', 'fp32', 'plain', 'another seed'),
    ('iterations', 'segmentation', 'bf16', 'plain', 'a lost step'),
    ('epochs', 'detection', 'fp16', 'plain', 'a flipped bit'),
    ('iterations', 'detection', 'fp32', 'ema', 'a lost step'),
    ('epochs', 'segmentation', 'bf16', 'ema', 'a flipped bit'),
    ('iterations', 'detection', 'fp16', 'ema', 'another seed'),
    ('epochs', 'segmentation', 'fp32', 'accumulation', 'a flipped bit'),
    ('iterations', 'detection', 'bf16', 'accumulation', 'another seed'),
    ('epochs', 'segmentation', 'fp16', 'accumulation', 'a lost step'),
    ('iterations', 'segmentation', 'fp32', 'concatenated', 'another seed'),
    ('epochs', 'detection', 'bf16', 'concatenated', 'a lost step'),
    ('iterations', 'segmentation', 'fp16', 'concatenated', 'a flipped bit'),
    ('epochs', 'detection', 'fp32', 'repeated', 'a lost step'),
    ('iterations', 'segmentation', 'bf16', 'repeated', 'a flipped bit'),
    ('epochs', 'detection', 'fp16', 'repeated', 'another seed'),
    ('iterations', 'detection', 'fp32', 'mixed', 'a flipped bit'),
    ('epochs', 'segmentation', 'bf16', 'mixed', 'another seed'),
    ('iterations', 'detection', 'fp16', 'mixed', 'a lost step'),
]


def test_any_two_values_of_two_factors_meet_in_a_case():
    for one, other in combinations(range(len(FACTORS)), 2):
        assert {(case[one], case[other]) for case in CASES} == set(product(FACTORS[one], FACTORS[other]))


@pytest.mark.parametrize(('loop', 'task', 'precision', 'variation', 'control'), CASES)
def test_a_run_that_is_killed_ends_as_an_uninterrupted_one(
    loop, task, precision, variation, control, mini_data, monkeypatch, tmp_path
):
    def run(name: str, hooks: Sequence[dict] = (), code: int = 0, **changes: object) -> str:
        cfg = settings(tmp_path / name, task, loop, precision, variation)
        cfg.custom_hooks.extend(hooks)
        cfg.update(changes)
        exit_code, output = train_in_a_process(tmp_path / f'{name}.log', cfg)
        assert exit_code == code, output
        return output

    monkeypatch.chdir(mini_data)
    output = run('whole', hooks=[dict(type='LogPrecision')])
    assert f'computing in torch.{PRECISIONS[precision].get("dtype", "float32")}' in output, output
    skipped, steps = output.count('was skipped'), 2 if variation == 'accumulation' else 6
    assert 0 < skipped < steps if precision == 'fp16' else skipped == 0, output
    assert last_checkpoint(tmp_path / 'whole').name == 'iter_6.pth'
    whole = end_state(tmp_path / 'whole')

    # the last checkpoint is then that of the first of the second epoch's three iterations
    kill = dict(type='Send', number=signal.SIGKILL, moment='after_train_iter', iteration=4)
    run('run', hooks=[kill], code=-signal.SIGKILL)
    checkpoint = last_checkpoint(tmp_path / 'run')
    assert checkpoint.name == 'iter_4.pth'
    shutil.copytree(tmp_path / 'run', tmp_path / 'control')
    output = run('run', resume=True)
    assert 'iter: 4' in output, output
    assert differences(whole, end_state(tmp_path / 'run')) == []

    if control == 'another seed':
        shutil.rmtree(tmp_path / 'control')
        run('control', randomness=dict(seed=1))
    else:
        content = torch.load(tmp_path / 'control' / checkpoint.name, weights_only=False)
        CHANGES[control](content)
        torch.save(content, tmp_path / 'control' / checkpoint.name)
        run('control', resume=True)
    assert any(name.startswith('state_dict') for name in differences(whole, end_state(tmp_path / 'control')))
