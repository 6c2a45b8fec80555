"""mmdet's and mmseg's own installed programs work on our configs, data and logs."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.tools.test_train_and_test import FAST, ITERATIONS

MINI = dict(mmdet='mask_rcnn_mambaout_mini', mmseg='upernet_mambaout_mini')
LENGTH = dict(mmdet=['train_cfg.max_epochs=1', 'train_cfg.val_interval=1'], mmseg=ITERATIONS)


def run(package: str, program: str, *arguments: object, cwd: Path) -> str:
    """Run an installed program of mmdet or mmseg; returns what it says."""
    # without importing the package, of which mmseg would need operators that only our plugin brings
    path = Path(importlib.util.find_spec(package).origin).parent / '.mim/tools' / program
    command = [sys.executable, '-m', 'mmengine_plugin'] if 'browse' in program else [sys.executable]
    done = subprocess.run([*command, path, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize('package', MINI)
def test_their_training_program_trains_our_config_and_their_log_program_reads_its_log(package, mini_data, tmp_path):
    config = ROOT / f'configs/mini/{MINI[package]}.py'
    options = ['--cfg-options', *FAST, *LENGTH[package], 'default_hooks.logger.interval=1']
    run(package, 'train.py', config, '--work-dir', tmp_path, *options, cwd=mini_data)
    assert (tmp_path / 'last_checkpoint').is_file()
    log, curve = next(tmp_path.glob('*/vis_data/scalars.json')), tmp_path / 'curve.png'
    arguments = ['plot_curve', log] if package == 'mmdet' else [log]
    run(package, 'analysis_tools/analyze_logs.py', *arguments, '--keys', 'loss', '--out', curve, cwd=tmp_path)
    assert curve.stat().st_size > 1000


@pytest.mark.parametrize('package', MINI)
def test_their_browsing_program_draws_our_training_images(package, mini_data, tmp_path):
    config = ROOT / f'configs/mini/{MINI[package]}.py'
    pictures = tmp_path / 'pictures'
    run(package, 'analysis_tools/browse_dataset.py', config, '--output-dir', pictures, '--not-show', cwd=mini_data)
    assert len(list(pictures.iterdir())) >= 7  # of 8; mmdet leaves out the one without objects
