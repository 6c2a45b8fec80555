"""tools/doctor.py names the problem and the fix of every wrong installation, and the other programs refer to it."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import venv
from distutils.core import run_setup
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOCTOR = ROOT / 'tools/doctor.py'
NEEDS = [*run_setup(ROOT / 'setup.py', stop_after='init').install_requires]
FIT = {'mambaout-dense': importlib.metadata.version('mambaout-dense')}
FIT |= {name: importlib.metadata.version(name).partition('+')[0] for name in (re.split('[=<>]', n)[0] for n in NEEDS)}
REQUIRES = {'mambaout-dense': NEEDS, 'torchvision': [f'torch (=={FIT["torch"]})', 'gdown; extra == "gdown"']}
TORCH = """
class version:
    cuda, hip = '13.0', None
class cuda:
    is_available = lambda: False
"""
MODULES = {
    'torch': TORCH,
    'torchvision': 'class version:\n    cuda = 13000\n',
    **dict.fromkeys(
        ('timm', 'mmengine', 'cv2', 'mmcv', 'mmdet', 'mmseg', 'mmdet_plugin', 'mmseg_plugin', 'timm_plugin'), ''
    ),
}


@pytest.fixture(scope='module')
def python(tmp_path_factory) -> Path:
    """A Python without any package."""
    folder = tmp_path_factory.mktemp('bare')
    venv.create(folder, symlinks=True)
    return folder / 'bin/python'


def lay_out(folder: Path, versions: dict[str, str | None], modules: dict[str, str]) -> Path:
    """Write what pip installs into a folder: metadata, and modules with only the code that their import depends on."""
    for name, version in versions.items():
        if version:
            info = folder / f'{name.replace("-", "_")}-{version}.dist-info'
            info.mkdir(parents=True)
            lines = ['Metadata-Version: 2.1', f'Name: {name}', f'Version: {version}', 'Requires-Python: >=3.11']
            lines += [f'Requires-Dist: {need}' for need in REQUIRES.get(name, [])]
            (info / 'METADATA').write_text('\n'.join(lines))
    for name, text in modules.items():
        (folder / name).mkdir()
        (folder / name / '__init__.py').write_text(text)
    return folder


def run(*command: object, cwd: Path, **environment: object) -> subprocess.CompletedProcess:
    """Run a Python that only sees what is on PYTHONPATH; its output is one string, errors included."""
    own = {k: v for k, v in os.environ.items() if k not in ('CUDA_VISIBLE_DEVICES', 'PYTHONPATH')}
    own |= {k: str(v) for k, v in environment.items()}
    command = [*map(str, command)]
    return subprocess.run(command, cwd=cwd, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_the_environment_of_the_tests_fits(tool):
    done = tool('doctor.py')
    assert done.returncode == 0 and 'All of this fits together' in done.stdout and '->' not in done.stdout, done.stdout
    for name, version in FIT.items():
        assert re.search(rf'^{name} +{re.escape(version)}', done.stdout, re.M), name


@pytest.mark.parametrize(
    ('versions', 'words'),
    [
        (dict(ftfy=None, regex=None), ['not installed: ftfy, regex', 'pip install "ftfy" "regex"']),
        (dict(mmengine='0.10.7'), ['mmengine 0.10.7 is installed', 'pip install "mmengine', '0.11.0rc3', 'setuptools']),
        (dict(mmengine='0.11.0rc2'), ['mmengine 0.11.0rc2 is installed', 'pip install "mmengine']),
        (dict(timm='1.0.9'), ['timm 1.0.9 is installed', 'pip install "timm>=1.0.26"']),
        ({'mmcv-lite': '2.2.0'}, ['mmdet and mmsegmentation refuse 2.2', 'pip install "mmcv-lite==2.1.0"']),
        ({'mmcv-lite': None, 'mmcv': '2.2.0'}, ['refuse 2.2', 'pip uninstall -y mmcv', 'install "mmcv-lite==2.1.0"']),
        (dict(mmcv='2.1.0'), ['over each other', 'uninstall -y mmcv mmcv-lite', 'install "mmcv-lite==2.1.0"']),
        (dict(torch='2.99.0+cpu'), ['torch 2.99.0+cpu is installed', f'pip install "torch=={FIT["torch"]}"']),
        (dict(torch=None), ['not installed: torch', f'pip install "torch=={FIT["torch"]}"']),
        ({'mambaout-dense': None, 'timm': None}, ['not installed: timm', '-c', f'constraints.txt -e {ROOT}\n']),
        (
            {'mambaout-dense': None, 'mmcv-lite': None, 'mmcv': '2.1.0'},
            ['not installed: mambaout-dense', f'install --no-deps -e {ROOT}\n'],
        ),
    ],
)
def test_versions_that_do_not_fit_are_named_with_their_fix(python, tmp_path, versions, words):
    site = lay_out(tmp_path / 'site', FIT | versions, {})
    done = run(python, DOCTOR, cwd=tmp_path, PYTHONPATH=site)
    assert done.returncode == 1 and done.stdout.count('  -> ') == 1, done.stdout
    for word in words:
        assert word in done.stdout, done.stdout


NMS = 'operator torchvision::nms does not exist'
CUDA = 'Detected that PyTorch and torchvision were compiled with different CUDA major versions. PyTorch has CUDA 13.0'
REFUSED = 'MMCV==2.2.0 is used but incompatible. Please install mmcv>=2.0.0rc4, <2.2.0.'
SYMBOL = '/site/mmcv/_ext.cpython-311-x86_64-linux-gnu.so: undefined symbol: _ZN3c1017RegisterOperators'
LIBRARY = 'libGL.so.1: cannot open shared object file: No such file or directory'


@pytest.mark.parametrize(
    ('module', 'text', 'words'),
    [
        ('torchvision', f'raise RuntimeError({NMS!r})', [NMS, 'pip uninstall -y torch torchvision', '"torchvision>=']),
        ('torchvision', f'raise RuntimeError({CUDA!r})', [CUDA, 'pip uninstall -y torch torchvision']),
        ('torchvision', 'class version: pass', ['torch is built for CUDA and torchvision for CPUs', 'uninstall']),
        ('mmdet', f'raise AssertionError({REFUSED!r})', [REFUSED, 'pip uninstall -y mmcv mmcv-lite']),
        ('mmdet', f'raise ImportError({SYMBOL!r})', [SYMBOL, 'pip uninstall -y mmcv mmcv-lite']),
        ('cv2', f'raise ImportError({LIBRARY!r})', [LIBRARY, 'opencv-python-headless']),
        ('mmdet', 'import pycocotools', ["import mmdet: ModuleNotFoundError: No module named 'pycocotools'", '-e']),
        ('mmseg', 'import os; os.abort()', ['import mmseg: the process ended with code -6', 'README.md']),
    ],
)
def test_an_import_that_fails_is_shown_with_its_fix(python, tmp_path, module, text, words):
    site = lay_out(tmp_path / 'site', FIT, MODULES | {module: text})
    done = run(python, DOCTOR, cwd=tmp_path, PYTHONPATH=site)
    assert done.returncode == 1 and done.stdout.count('  -> ') == 1, done.stdout
    for word in words:
        assert word in done.stdout, done.stdout


@pytest.mark.parametrize(
    'versions',
    [{'huggingface_hub': '10.0', 'mmengine': '0.11.0'}, {'torch': f'{FIT["torch"]}+cpu'}, {'timm': '1.1.dev3'}],
)
def test_newer_versions_and_builds_in_the_ranges_fit(python, tmp_path, versions):
    site = lay_out(tmp_path / 'site', FIT | versions, MODULES)
    done = run(python, DOCTOR, cwd=tmp_path, PYTHONPATH=site)
    assert done.returncode == 0, done.stdout


def test_a_compiled_mmcv_is_accepted_in_place_of_the_wheel(python, tmp_path):
    site = lay_out(tmp_path / 'site', FIT | {'mmcv-lite': None, 'mmcv': '2.1.0'}, MODULES)
    (site / 'mmcv/_ext.cpython-311-x86_64-linux-gnu.so').touch()
    done = run(python, DOCTOR, cwd=tmp_path, PYTHONPATH=site)
    assert done.returncode == 0 and re.search(r'^mmcv +2.1.0 +compiled operators$', done.stdout, re.M), done.stdout


WARNING = 'CUDA initialization: The NVIDIA driver on your system is too old (found version 11040).'


@pytest.mark.parametrize(
    ('change', 'environment', 'note'),
    [
        (('', ''), dict(PATH='/none'), 'none: no driver (there is no nvidia-smi)'),
        (('', ''), dict(CUDA_VISIBLE_DEVICES='-1'), 'none: CUDA_VISIBLE_DEVICES=-1 hides all'),
        (('lambda: False', f'lambda: __import__("warnings").warn({WARNING!r})'), {}, f'none: {WARNING}'),
        (("'13.0', None", "None, '6.0'"), dict(CUDA_VISIBLE_DEVICES=''), 'none: CUDA_VISIBLE_DEVICES= hides all'),
        (
            ('lambda: False', 'lambda: True; device_count = lambda: 2; get_device_name = lambda i: f"H{i}"'),
            {},
            'H0, H1',
        ),
    ],
)
def test_the_gpus_or_why_there_is_none_are_reported_and_are_no_problem(python, tmp_path, change, environment, note):
    site = lay_out(tmp_path / 'site', FIT, MODULES | dict(torch=TORCH.replace(*change)))
    done = run(python, DOCTOR, cwd=tmp_path, PYTHONPATH=site, **environment)
    assert done.returncode == 0 and re.search(rf'^GPU +{re.escape(note)}$', done.stdout, re.M), done.stdout


def test_missing_data_are_reported_and_are_no_problem(python, tmp_path):
    for name in ('annotations/instances_train2017.json', 'annotations/instances_val2017.json', 'val2017'):
        (tmp_path / 'data/coco' / name).mkdir(parents=True)
    site = lay_out(tmp_path / 'site', FIT, MODULES)
    done = run(python, DOCTOR, cwd=tmp_path, PYTHONPATH=site)
    assert done.returncode == 0 and 'data/coco lacks train2017\n' in done.stdout, done.stdout
    assert f'data/ade/ADEChallengeData2016 is not there (seen from {tmp_path})' in done.stdout


def test_a_python_that_is_too_old_is_reported(python, tmp_path):
    ast.parse(DOCTOR.read_text(), feature_version=(3, 9))
    (tmp_path / 'tools').mkdir()
    shutil.copy(DOCTOR, tmp_path / 'tools')
    (tmp_path / 'setup.py').write_text((ROOT / 'setup.py').read_text().replace("'>=3.11'", "'>=4'"))
    done = run(python, tmp_path / 'tools/doctor.py', cwd=tmp_path)
    assert done.returncode == 1 and 'is installed, Python>=4 is needed' in done.stdout, done.stdout
    assert done.stdout.count('  -> ') == 1 and '-m venv .venv' in done.stdout


@pytest.mark.parametrize(
    'program', sorted(p.name for p in DOCTOR.parent.glob('*.py') if p.name not in ('__init__.py', 'doctor.py'))
)
def test_a_program_with_failing_imports_says_what_to_type(python, tmp_path, program):
    done = run(python, ROOT / 'tools' / program, cwd=tmp_path)
    error, advice = done.stdout.splitlines()[-2:]
    assert done.returncode == 1 and error.startswith('ModuleNotFoundError: No module named'), done.stdout
    assert advice.startswith(f'try `{python} -m pip install') and f'`{python} {DOCTOR}`' in advice


def test_other_errors_are_shown_as_usual(python):
    done = run(python, '-c', "import doctor; raise ValueError('of another kind')", cwd=DOCTOR.parent)
    assert done.returncode == 1 and done.stdout.endswith('ValueError: of another kind\n'), done.stdout


@pytest.fixture
def installed(tmp_path) -> Path:
    """The folders of an installed package, beside packages that are empty."""
    site = lay_out(tmp_path / 'site', FIT, MODULES | {'mmdet_plugin': 'import mmengine_plugin'})
    for name in ('backbones', 'mmengine_plugin'):
        shutil.copytree(ROOT / name, site / name)
    for name in ('configs', 'tools'):
        shutil.copytree(ROOT / name, site / 'mmengine_plugin' / name)
    return site


def test_an_installed_program_with_failing_imports_names_the_doctor(python, installed, tmp_path):
    done = run(python, '-m', 'mmengine_plugin.tools.train', cwd=tmp_path, PYTHONPATH=installed)
    error, advice = done.stdout.splitlines()[-2:]
    assert done.returncode == 1 and 'Error: ' in error, done.stdout
    doctor = re.match(r'`(.*) (.*)` says what does not fit', advice)
    assert Path(doctor[2]) == installed / 'mmengine_plugin/tools/doctor.py'
    done = run(*doctor.groups(), cwd=tmp_path, PYTHONPATH=installed)
    assert done.returncode == 1 and f'import mmdet_plugin: {error}' in done.stdout, done.stdout


def test_a_folder_that_hides_our_backbones_is_reported(python, installed, tmp_path):
    (tmp_path / 'backbones').mkdir()
    (tmp_path / 'backbones/__init__.py').touch()
    done = run(python, DOCTOR, cwd=tmp_path, PYTHONPATH=installed)
    assert done.returncode == 1 and str(tmp_path / 'backbones') in done.stdout, done.stdout
    assert '-> rename that folder' in done.stdout
