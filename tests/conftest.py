"""What tests of several folders need: the programs as real processes, and mini data on disk."""

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ['TRITON_INTERPRET'] = '1'  # before Triton is imported

# Whoever starts the tests may block signals, which children inherit: none would then know that another has ended.
signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
os.environ.setdefault('GLOO_SOCKET_IFNAME', 'lo' if sys.platform == 'linux' else 'lo0')  # no name need be resolved
TIME_LIMIT = 900  # seconds, of any program

ROOT = Path(__file__).resolve().parents[1]
DETECTION = ROOT / 'configs/mini/mask_rcnn_mambaout_mini.py'
SEGMENTATION = ROOT / 'configs/mini/upernet_mambaout_mini.py'
CLASSIFICATION = ROOT / 'configs/mini/imagenet_mambaout_mini.py'
# the models on COCO and ADE20K with the paper's heads and schedules, by their paths in configs/; *_official.py are
# other recipes for the same models
CONFIGS = sorted(
    path.relative_to(ROOT / 'configs').with_suffix('').as_posix()
    for head in ('mask_rcnn', 'upernet')
    for path in (ROOT / 'configs').rglob(f'{head}_*.py')
    if path.parent.name not in ('_base_', 'mini') and not path.stem.endswith(('_official', '_3x'))
)
# MambaOut with other heads and schedules
ZOO = sorted(
    path.stem
    for path in (ROOT / 'configs').glob('*_mambaout_*.py')
    if path.stem not in CONFIGS and not path.stem.startswith('imagenet')
)
FOLDERS = [ROOT / 'data', ROOT.parent / 'shared/data']  # where real data may be
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
    """Run a program of ``tools/`` as a user does, in a process of its own; its output is one string, errors included.

    ``tool`` is its name, or the absolute path of a program elsewhere.

    The process is forked from one that has imported what takes long, and nothing of this project: most programs of the
    tests would otherwise spend their time in importing torch.
    """
    processes = multiprocessing.get_context('forkserver')
    processes.set_forkserver_preload(
        ['torch', 'torch._dynamo', 'torch.utils.tensorboard', 'torchvision', 'mmengine.runner', 'mmcv', 'seaborn']
        + ['matplotlib.pyplot', 'pycocotools.coco', 'scipy.optimize', 'shapely', 'ftfy', 'rich.progress', 'yapf']
    )
    argv = [str(ROOT / 'tools' / tool), *map(str, arguments)]
    environment = os.environ | dict(HF_HUB_OFFLINE='1')
    with tempfile.NamedTemporaryFile('r') as output:
        process = processes.Process(target=_run_program, args=(argv, cwd, environment, output.name))
        process.start()
        process.join(TIME_LIMIT)
        if process.is_alive():
            process.kill()
            process.join()
        return subprocess.CompletedProcess(argv, process.exitcode, output.read())


def _run_program(argv: list[str], cwd: Path, environment: dict[str, str], output: str) -> None:
    """What Python does with a command line."""
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = argv
    sys.path[:0] = [str(Path(argv[0]).parent), *filter(None, environment.get('PYTHONPATH', '').split(os.pathsep))]
    runpy.run_path(argv[0], run_name='__main__')


@pytest.fixture(scope='session')
def tool() -> Callable[..., subprocess.CompletedProcess]:
    """:func:`run_tool`."""
    return run_tool


@pytest.fixture(scope='session')
def mini_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 8 training images of each mini data set in ``data/mini``, where the configs look."""
    root = tmp_path_factory.mktemp('mini')
    for kind in ('coco', 'ade20k', 'imagenet'):
        made = run_tool('make_mini_dataset.py', kind, root / 'data' / 'mini' / kind, '--images', 8)
        assert made.returncode == 0, made.stdout
    return root


def link(root: Path, place: str, name: str) -> None:
    """Put real data where the configs look for it, below ``root``."""
    found = [folder / part for folder in FOLDERS for part in (place, name) if (folder / part).is_dir()]
    if not found:
        pytest.skip(f'no {name} in {" or ".join(map(str, FOLDERS))}')
    (root / 'data' / place).parent.mkdir(parents=True, exist_ok=True)
    (root / 'data' / place).symlink_to(found[0].resolve())


@pytest.fixture
def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]
