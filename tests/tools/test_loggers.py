"""Runs that log to Weights & Biases and to MLflow, both without a network; each is skipped if it is not installed."""

import importlib.util
import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tools.test_sweep import STEPS, TOP1, write_config

WITH = 'visualizer = dict(vis_backends=[dict(type="LocalVisBackend"), dict({})])\n'


def installed(module: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not importlib.util.find_spec(module), reason=f'needs `pip install {module}`')


def train(tool, folder: Path, data: Path, backend: str) -> list[dict]:
    """Train with a backend of the visualizer, and return what mmengine's own log holds."""
    config = write_config(folder)
    config.write_text(config.read_text() + WITH.format(backend))
    done = tool('train.py', config, '--work-dir', folder / 'run', cwd=data)
    assert done.returncode == 0, done.stdout[-3000:]
    (log,) = folder.glob('run/*/vis_data/scalars.json')
    return [json.loads(line) for line in log.open()]


def wandb_history(path: Path) -> Iterator[dict]:
    """The scalars in a file of an offline run, whose records are stored as in a LevelDB log."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, record = path.read_bytes(), 7, b''  # behind the file's header
    while place + 7 <= len(content):
        left = 32768 - place % 32768  # of a block
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack('<IHB', content[place : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            history, record = Record.FromString(record).history, b''
            if history.item:
                yield {'.'.join(item.nested_key) or item.key: json.loads(item.value_json) for item in history.item}


@installed('wandb')
def test_wandb_gets_all_scalars_of_training_and_validation_in_their_order(tool, mini_data, tmp_path, monkeypatch):
    monkeypatch.setenv('WANDB_MODE', 'offline')
    logged = train(tool, tmp_path, mini_data, 'type="WandbVisBackend", init_kwargs=dict(project="mini")')
    (path,) = tmp_path.glob('run/*/vis_data/wandb/offline-run-*/*.wandb')
    found = list(wandb_history(path))
    assert [line.get('loss') for line in found] == [line.get('loss') for line in logged]
    assert [line.get(TOP1) for line in found] == [line.get(TOP1) for line in logged]
    # the axis: of training lines, `iter`; W&B itself counts lines, and validations have nothing else
    assert [line['iter'] for line in found if 'loss' in line] == list(range(1, STEPS + 1))
    assert [line['_step'] for line in found] == list(range(len(logged)))


@installed('mlflow')
def test_mlflow_gets_all_scalars_at_the_steps_of_mmengines_own_log(tool, mini_data, tmp_path):
    from mlflow import MlflowClient

    store = f'sqlite:///{tmp_path}/mlflow.db'
    backend = f'type="MLflowVisBackend", exp_name="mini", tracking_uri={store!r}, artifact_location={str(tmp_path)!r}'
    logged = train(tool, tmp_path, mini_data, backend)
    client = MlflowClient(store)
    (run,) = client.search_runs([client.get_experiment_by_name('mini').experiment_id])
    for name in ('loss', TOP1):
        curve = sorted((metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name))
        assert curve == [(line['step'], line[name]) for line in logged if name in line]
