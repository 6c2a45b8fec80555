"""What tests of several folders need: the programs as real processes, and mini data on disk."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DETECTION = ROOT / 'configs/mini/mask_rcnn_mambaout_mini.py'
SEGMENTATION = ROOT / 'configs/mini/upernet_mambaout_mini.py'
# upstream's recipes, to which the paper's author refers
SWIN = {
    'mask_rcnn': Path(find_spec('mmdet').submodule_search_locations[0])
    / '.mim/configs/swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
    'upernet': Path(find_spec('mmseg').submodule_search_locations[0])
    / '.mim/configs/swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
}
# options that make a mini run short
FAST = ['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False']
FAST += [option.replace('train', 'val') for option in FAST] + [option.replace('train', 'test') for option in FAST]
TWO_EPOCHS = [*FAST, 'train_cfg.max_epochs=2', 'train_cfg.val_interval=1', 'default_hooks.logger.interval=1']
TWELVE_ITERATIONS = [*FAST, 'train_cfg.max_iters=12', 'train_cfg.val_interval=6', 'param_scheduler.0.end=2']
TWELVE_ITERATIONS += [
    'param_scheduler.1.begin=2',
    'default_hooks.checkpoint.interval=6',
    'default_hooks.logger.interval=1',
]


def run_tool(tool: str, *arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run a program of ``tools/`` as a user does; its output is one string, errors included."""
    return subprocess.run(
        [sys.executable, str(ROOT / 'tools' / tool), *map(str, arguments)],
        cwd=cwd,
        env=os.environ | dict(HF_HUB_OFFLINE='1'),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )


@pytest.fixture(scope='session')
def tool() -> Callable[..., subprocess.CompletedProcess]:
    """:func:`run_tool`."""
    return run_tool


@pytest.fixture(scope='session')
def mini_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 8 training images each in ``data/mini/coco`` and ``data/mini/ade20k``, where the configs look."""
    root = tmp_path_factory.mktemp('mini')
    for kind in ('coco', 'ade20k'):
        made = run_tool('make_mini_dataset.py', kind, root / 'data' / 'mini' / kind, '--images', 8)
        assert made.returncode == 0, made.stdout
    return root


@pytest.fixture
def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]
