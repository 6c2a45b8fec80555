"""The installed programs of mmdet and mmseg work with our configs, data and logs."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import DETECTION, SEGMENTATION, TWELVE_ITERATIONS, TWO_EPOCHS

CONFIGS = dict(mmdet=DETECTION, mmseg=SEGMENTATION)
SHORT = dict(mmdet=TWO_EPOCHS, mmseg=TWELVE_ITERATIONS)


def run(package: str, program: str, *arguments: object, cwd: Path) -> str:
    """Run an installed program of mmdet or mmseg; return its output."""
    # find_spec does not import the package: mmseg would need operators that only our plugin has
    path = Path(importlib.util.find_spec(package).origin).parent / '.mim/tools' / program
    command = [sys.executable, '-m', 'mmengine_plugin'] if 'browse' in program else [sys.executable]
    done = subprocess.run([*command, path, *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.parametrize('package', CONFIGS)
def test_their_training_program_trains_our_config_and_their_log_program_reads_its_log(package, mini_data, tmp_path):
    options = ['--work-dir', tmp_path, '--cfg-options', *SHORT[package]]
    run(package, 'train.py', CONFIGS[package], *options, cwd=mini_data)
    assert (tmp_path / 'last_checkpoint').is_file()
    log, curve = next(tmp_path.glob('*/vis_data/scalars.json')), tmp_path / 'curve.png'
    arguments = ['plot_curve', log] if package == 'mmdet' else [log]
    run(package, 'analysis_tools/analyze_logs.py', *arguments, '--keys', 'loss', '--out', curve, cwd=tmp_path)
    assert curve.stat().st_size > 1000


@pytest.mark.parametrize('package', CONFIGS)
def test_their_browsing_program_draws_our_training_images(package, mini_data, tmp_path):
    pictures = tmp_path / 'pictures'
    options = ['--output-dir', pictures, '--not-show']
    run(package, 'analysis_tools/browse_dataset.py', CONFIGS[package], *options, cwd=mini_data)
    assert len(list(pictures.iterdir())) >= 7  # of 8; mmdet leaves out the one without objects
