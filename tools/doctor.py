#!/usr/bin/env python
"""List what is installed, what does not fit together, and what to type.

    python tools/doctor.py

It only needs Python, and works if nothing else does. In an installed package, start it by its path. The exit code is 1
if anything does not fit. A missing GPU or missing data are reported, but are not problems. The other programs import
this one: if an import fails, it prints what to type below the traceback.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import operator
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[1]
OURS = 'mambaout-dense'
PIP = f'{shlex.quote(sys.executable)} -m pip'
SOURCE = shlex.quote(str(ROOT))
WHOLE = f'--only-binary=:all: -c {SOURCE}/constraints.txt -e {SOURCE}'
COMPARE = {'==': operator.eq, '>=': operator.ge, '<=': operator.le, '>': operator.gt, '<': operator.lt}
# why other versions do not work
REASONS = {
    'mmcv': 'mmdet and mmsegmentation refuse 2.2',
    'mmcv-lite': 'mmdet and mmsegmentation refuse 2.2',
    'mmengine': 'older versions cannot load their own checkpoints; pip installs a pre-release only by its version',
    'torch': 'each torchvision works with one version of torch',
}
# each module comes after those that it needs: the first one that fails is the cause
MODULES = 'torch torchvision timm mmengine cv2 mmcv mmdet mmseg mmdet_plugin mmseg_plugin timm_plugin'.split()
PROBE = """
import importlib, json, sys, warnings
for name in sys.argv[1:]:
    print(name, flush=True)
    importlib.import_module(name)
import torch, torchvision
with warnings.catch_warnings(record=True) as caught:
    there = torch.cuda.is_available()
print(json.dumps(dict(
    gpus=[torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if there else [],
    warnings=[str(w.message).strip() for w in caught],
    builds=[bool(torch.version.cuda), hasattr(torchvision.version, 'cuda')],
    hip=torch.version.hip,
)))
"""
DATA = {
    'data/coco': ['annotations/instances_train2017.json', 'annotations/instances_val2017.json', 'train2017', 'val2017'],
    'data/ade/ADEChallengeData2016': [
        f'{a}/{b}' for a in ('images', 'annotations') for b in ('training', 'validation')
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    found = versions()
    row('Python', found['Python'], f'{sys.executable}, {platform.platform()}')
    for name in sorted(found, key=str.lower):
        if name != 'Python':
            note = mmcv_operators() if found[name] and name.startswith('mmcv') else ''
            row(name, found[name] or '-', note)
    problems = compare(found)
    if not problems:
        gpu, problems = try_imports(found)
        row('GPU', '', gpu)
    for folder, names in DATA.items():
        row('data', '', f'{folder} {state_of(folder, names)}')
    for fix, lines in problems.items():
        print('', *lines, f'  -> {fix}', sep='\n')
    print()
    if problems:
        print('Then run this again: imports are tried once all versions fit, up to the first import that fails.')
        sys.exit(1)
    print('All of this fits together. README.md says how to train and test.')


def row(name: str, version: str, note: str) -> None:
    """Print a line of the table."""
    print(f'{name:18} {version:11} {note}'.rstrip(), flush=True)


def state_of(folder: str, names: list[str]) -> str:
    """Whether a data set is there, and what it lacks."""
    missing = [name for name in names if not Path(folder, name).exists()]
    if not missing:
        return 'is there'
    if Path(folder).is_dir():
        return f'lacks {", ".join(missing)}'
    return f'is not there (seen from {Path.cwd()})'


def mmcv_operators() -> str:
    """The operators that mmcv will use."""
    package = importlib.util.find_spec('mmcv')
    for folder in package.submodule_search_locations if package else []:
        if any(Path(folder).glob('_ext.*')):
            return 'compiled operators'
    return "torchvision's operators"


def requirements() -> dict[str, str]:
    """The requirements in setup.py, by name: ``{'Python': 'Python>=3.11', 'torch': 'torch>=2.12', ...}``."""
    if (ROOT / 'setup.py').is_file():  # in a checkout, the installed metadata may be older
        call = ast.parse((ROOT / 'setup.py').read_text(encoding='utf-8')).body[-1].value
        values = {keyword.arg: keyword.value for keyword in call.keywords}
        python, lines = ast.literal_eval(values['python_requires']), ast.literal_eval(values['install_requires'])
    else:
        python, lines = metadata.metadata(OURS)['Requires-Python'], metadata.requires(OURS)
    return by_name([f'Python{python}', *lines])


def by_name(lines: list[str]) -> dict[str, str]:
    """Requirements by name, without optional ones."""
    lines = [re.sub('[ ()]', '', line.partition(';')[0]) for line in lines if 'extra ==' not in line]
    return {re.split('[<=>]', line)[0]: line for line in lines}


def versions(*further: str) -> dict[str, str | None]:
    """Installed versions by name; None if a package is not installed."""
    found: dict[str, str | None] = {}
    for name in (OURS, *requirements(), 'mmcv', 'numpy', 'setuptools', *further):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    found['Python'] = platform.python_version()
    return found


def fits(version: str | None, requirement: str) -> bool:
    """Whether a version is installed and meets a requirement."""
    bounds = re.findall(r'([<=>]+)([\w.]+)', requirement)
    return bool(version) and all(COMPARE[sign](order(version), order(bound)) for sign, bound in bounds)


def order(version: str) -> list[int]:
    """A sort key for versions. A pre-release comes before its release; builds (``+cpu``) are equal."""
    parts = re.findall(r'\d+|[a-z]+', version.partition('+')[0])
    numbers = [int(p) if p.isdigit() else dict(dev=-4, a=-3, b=-2, rc=-1).get(p, 0) for p in parts]
    return (numbers + [0] * 8)[:8]


def compare(found: dict[str, str | None]) -> dict[str, list[str]]:
    """Compare the installed versions with the requirements.

    Returns:
        Lines that describe the problems, by their common fix, which is mostly a command.
    """
    needs = requirements()
    if not fits(found['Python'], needs['Python']):
        fix = f'python3.11 -m venv .venv && .venv/bin/python -m pip install {WHOLE}'
        return {fix: [misfit('Python', found, needs['Python'])]}
    if fits(found['torchvision'], needs['torchvision']):
        needs['torch'] = by_name(metadata.requires('torchvision') or []).get('torch', needs['torch'])
    problems: dict[str, list[str]] = {}
    if found['mmcv']:  # compiled, in place of mmcv-lite
        need = needs.pop('mmcv-lite').replace('mmcv-lite', 'mmcv')
        if found['mmcv-lite']:
            line = f'mmcv {found["mmcv"]} and mmcv-lite {found["mmcv-lite"]} are installed over each other'
            problems[reinstall_mmcv()] = [line]
        elif not fits(found['mmcv'], need):
            problems[reinstall_mmcv()] = [misfit('mmcv', found, need)]
    wrong = {name: need for name, need in needs.items() if not fits(found[name], need)}
    lines = [misfit(name, found, need) for name, need in wrong.items() if found[name]]
    missing = [name for name in wrong if not found[name]]
    if missing:
        lines.append(f'not installed: {", ".join(missing)}')
    packages = ' '.join(f'"{need}"' for need in wrong.values())
    if not found[OURS]:
        line = f'not installed: {OURS}'
        if found['mmcv']:
            problems[f'{PIP} install --no-deps -e {SOURCE}'] = [line]  # which leaves mmcv as it is
        else:
            lines.append(line)
            packages = WHOLE
    if lines:
        problems[f'{PIP} install {packages}'] = lines
    return problems


def misfit(name: str, found: dict[str, str | None], need: str) -> str:
    """The line for a package that is installed in a wrong version."""
    line = f'{name} {found[name]} is installed, {need} is needed'
    if name in REASONS:
        line += f': {REASONS[name]}'
    if name == 'mmengine' and importlib.util.find_spec('pkg_resources') is None:
        line += '; `mmdet::` in a config also fails, since setuptools 82 has no pkg_resources'
    return line


def try_imports(found: dict[str, str | None]) -> tuple[str, dict[str, list[str]]]:
    """Import everything in another process, as `python -m` would here.

    Returns:
        The names of the GPUs, or the reason why there is none, and the problems as in :func:`compare`.
    """
    done = subprocess.run([sys.executable, '-c', PROBE, *MODULES], capture_output=True, text=True)
    last = done.stdout.splitlines()[-1]  # the module that failed, or the facts
    if done.returncode:
        errors = re.findall(r'^[\w.]*(?:Error|Exception)\b.*', done.stderr, re.M)
        error = errors[-1] if errors else f'the process ended with code {done.returncode}'
        fix = fix_for(error) or 'set up a new environment, as README.md says'
        if 'No module named' in error and not found['mmcv'] and (ROOT / 'setup.py').is_file():
            fix = f'{PIP} install {WHOLE}'  # installs what the packages need, too
        return 'not looked for', {fix: [f'import {last}: {error}']}
    facts = json.loads(last)
    problems = {}
    if facts['hip'] is None and facts['builds'][0] != facts['builds'][1]:
        torch, torchvision = ('CUDA' if cuda else 'CPUs' for cuda in facts['builds'])
        problems[reinstall_torch()] = [f'torch is built for {torch} and torchvision for {torchvision}']
    return ', '.join(facts['gpus']) or f'none: {why_no_gpu(facts)}', problems


def why_no_gpu(facts: dict) -> str:
    """The reason why there is no GPU, from the facts that PROBE found."""
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    if not facts['builds'][0] and not facts['hip']:
        return 'this torch is built for CPUs'
    if visible in ('', '-1'):
        return f'CUDA_VISIBLE_DEVICES={visible} hides all'
    if facts['warnings']:
        return facts['warnings'][0]  # for example, that the driver is older than torch's CUDA
    return 'torch sees no device' if shutil.which('nvidia-smi') else 'no driver (there is no nvidia-smi)'


def fix_for(error: str) -> str | None:
    """The fix for the message of a known error, or None."""
    if re.search(r'torchvision::|PyTorch and torchvision', error):
        return reinstall_torch()
    if re.search(r'MMCV==|mmcv.{1,2}_ext', error):
        return reinstall_mmcv()
    if re.search(r'libGL\.|libgthread|libglib', error):
        return f'{PIP} uninstall -y opencv-python && {PIP} install --force-reinstall --no-deps opencv-python-headless'
    if 'comes first on sys.path' in error:
        return 'rename that folder, or start from another one'
    return None


def reinstall_torch() -> str:
    """The command that installs torch and torchvision again, from one source."""
    needs = requirements()
    return f'{PIP} uninstall -y torch torchvision && {PIP} install "{needs["torch"]}" "{needs["torchvision"]}"'


def reinstall_mmcv() -> str:
    """The command that replaces all installed mmcv by mmcv-lite."""
    return f'{PIP} uninstall -y mmcv mmcv-lite && {PIP} install "{requirements()["mmcv-lite"]}"'


def advise(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show an error as Python does. If an import failed because of what is installed, print what to type, too."""
    sys.__excepthook__(kind, error, trace)
    if isinstance(error, ImportError) or fix_for(str(error)):
        fixes = [*compare(versions()), fix_for(str(error))]
        first = f'try `{fixes[0]}`; ' if fixes[0] else ''
        print(f'{first}`{sys.executable} {__file__}` says what does not fit', file=sys.stderr)


if __name__ == '__main__':
    main()
else:
    sys.excepthook = advise
