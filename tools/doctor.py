#!/usr/bin/env python
"""Say what is installed, what does not fit together, and what to type.

    python tools/doctor.py

It needs nothing but Python and works where nothing else does; in an installed package, start it by its path. The exit
code is 1 if anything does not fit. A missing GPU and missing data are told and are no faults. The other programs import
this one: if an import fails, it adds what to type below the traceback; those that measure ask it how they do.
"""

from __future__ import annotations

import argparse
import ast
import datetime
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
# why no other version will do
REASONS = {
    'mmcv': 'mmdet and mmsegmentation refuse 2.2',
    'mmcv-lite': 'mmdet and mmsegmentation refuse 2.2',
    'mmengine': 'older ones cannot load their own checkpoints; pip takes a pre-release only if its version is named',
    'torch': 'a torchvision works with one version of it',
}
# each after those that it needs: the first one that fails is the cause
MODULES = ('torch', 'torchvision', 'timm', 'mmengine', 'cv2', 'mmcv', 'mmdet', 'mmseg', 'mmdet_plugin', 'mmseg_plugin')
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
    for name in sorted({*found} - {'Python'}, key=str.lower):
        row(name, found[name] or '-', mmcv_operators() if name.startswith('mmcv') and found[name] else '')
    faults = compare(found)
    if not faults:
        gpu, faults = try_imports(found)
        row('GPU', '', gpu)
    for folder, names in DATA.items():
        lacking = [name for name in names if not Path(folder, name).exists()]
        note = f'lacks {", ".join(lacking)}' if Path(folder).is_dir() else f'is not there (seen from {Path.cwd()})'
        row('data', '', f'{folder} {note if lacking else "is there"}')
    for cure, wrong in faults.items():
        print('', *wrong, f'  -> {cure}', sep='\n')
    print()
    if faults:
        print('Then run this again: imports are tried when all versions fit, and up to the first that fails.')
        sys.exit(1)
    print('All of this fits together. README.md says how to train and test.')


def row(name: str, version: str, note: str) -> None:
    """Print a line of the table."""
    print(f'{name:18} {version:11} {note}'.rstrip(), flush=True)


def mmcv_operators() -> str:
    """Whose operators mmcv will use."""
    package = importlib.util.find_spec('mmcv')
    folders = package.submodule_search_locations if package else []
    return 'compiled operators' if any([*Path(f).glob('_ext.*')] for f in folders) else "torchvision's operators"


def requirements() -> dict[str, str]:
    """What setup.py asks for, by name: ``{'Python': 'Python>=3.11', 'torch': 'torch>=2.12', ...}``."""
    if (ROOT / 'setup.py').is_file():  # a checkout, whose installed metadata may be older
        call = ast.parse((ROOT / 'setup.py').read_text(encoding='utf-8')).body[-1].value
        values = {keyword.arg: keyword.value for keyword in call.keywords}
        python, lines = ast.literal_eval(values['python_requires']), ast.literal_eval(values['install_requires'])
    else:
        python, lines = metadata.metadata(OURS)['Requires-Python'], metadata.requires(OURS)
    return by_name([f'Python{python}', *lines])


def by_name(lines: list[str]) -> dict[str, str]:
    """Requirements by name, without those of extras."""
    lines = [re.sub('[ ()]', '', line.partition(';')[0]) for line in lines if 'extra ==' not in line]
    return {re.split('[<=>]', line)[0]: line for line in lines}


def versions(*further: str) -> dict[str, str | None]:
    """Installed versions by name; None for what is not there."""
    found: dict[str, str | None] = {}
    for name in (OURS, *requirements(), 'mmcv', 'numpy', 'setuptools', *further):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    found['Python'] = platform.python_version()
    return found


def taken(*packages: str) -> dict[str, object]:
    """How figures are taken: command, date, CPU and versions, those of further packages included."""
    info = Path('/proc/cpuinfo')
    cpu = re.search(r'^model name\s*: (.*)', info.read_text(), re.M) if info.is_file() else None
    return dict(
        command=shlex.join(['python', f'tools/{Path(sys.argv[0]).name}', *sys.argv[1:]]),
        date=datetime.date.today().isoformat(),
        device=cpu[1] if cpu else platform.processor() or platform.machine(),
        versions={name: version for name, version in versions(*packages).items() if version},
    )


def fits(version: str | None, requirement: str) -> bool:
    """Whether a version is there and in the range of a requirement."""
    bounds = re.findall(r'([<=>]+)([\w.]+)', requirement)
    return bool(version) and all(COMPARE[sign](order(version), order(bound)) for sign, bound in bounds)


def order(version: str) -> list[int]:
    """A key that sorts versions: a pre-release comes before its release, builds (``+cpu``) are equal."""
    parts = re.findall(r'\d+|[a-z]+', version.partition('+')[0])
    numbers = [int(p) if p.isdigit() else dict(dev=-4, a=-3, b=-2, rc=-1).get(p, 0) for p in parts]
    return (numbers + [0] * 8)[:8]


def compare(found: dict[str, str | None]) -> dict[str, list[str]]:
    """What is wrong as far as the versions tell: by the cure, mostly a command, one line for each fault."""
    needs = requirements()
    if not fits(found['Python'], needs['Python']):
        cure = f'python3.11 -m venv .venv && .venv/bin/python -m pip install {WHOLE}'
        return {cure: [unfit('Python', found, needs['Python'])]}
    if fits(found['torchvision'], needs['torchvision']):
        needs['torch'] = by_name(metadata.requires('torchvision') or []).get('torch', needs['torch'])
    faults: dict[str, list[str]] = {}
    if found['mmcv']:  # compiled, in the place of mmcv-lite
        need = needs.pop('mmcv-lite').replace('mmcv-lite', 'mmcv')
        if found['mmcv-lite']:
            faults[cure_mmcv()] = [f'mmcv {found["mmcv"]} and mmcv-lite {found["mmcv-lite"]} lie over each other']
        elif not fits(found['mmcv'], need):
            faults[cure_mmcv()] = [unfit('mmcv', found, need)]
    wrong = {name: need for name, need in needs.items() if not fits(found[name], need)}
    lines = [unfit(name, found, need) for name, need in wrong.items() if found[name]]
    if missing := [name for name in wrong if not found[name]]:
        lines.append(f'not installed: {", ".join(missing)}')
    install = ' '.join(f'"{need}"' for need in wrong.values())
    if not found[OURS] and found['mmcv']:
        faults[f'{PIP} install --no-deps -e {SOURCE}'] = [f'not installed: {OURS}']  # and mmcv stays as it is
    elif not found[OURS]:
        lines, install = [*lines, f'not installed: {OURS}'], WHOLE
    if lines:
        faults[f'{PIP} install {install}'] = lines
    return faults


def unfit(name: str, found: dict[str, str | None], need: str) -> str:
    """One line for a package that is not in the range."""
    line = f'{name} {found[name]} is installed, {need} is needed' + (f': {REASONS[name]}' if name in REASONS else '')
    if name == 'mmengine' and importlib.util.find_spec('pkg_resources') is None:
        line += '; `mmdet::` in a config fails, too, without pkg_resources, which setuptools 82 dropped'
    return line


def try_imports(found: dict[str, str | None]) -> tuple[str, dict[str, list[str]]]:
    """Import everything in another process, as `python -m` would here.

    Returns:
        Which GPUs there are or why there is none, and the faults as :func:`compare` has them.
    """
    done = subprocess.run([sys.executable, '-c', PROBE, *MODULES], capture_output=True, text=True)
    last = done.stdout.splitlines()[-1]  # the module that failed, or the facts
    if done.returncode:
        errors = re.findall(r'^[\w.]*(?:Error|Exception)\b.*', done.stderr, re.M)
        said = errors[-1] if errors else f'the process ended with code {done.returncode}'
        cure = cure_for(said) or 'set up a new environment, as README.md says'
        if 'No module named' in said and not found['mmcv'] and (ROOT / 'setup.py').is_file():
            cure = f'{PIP} install {WHOLE}'  # completes what the packages need
        return 'not looked for', {cure: [f'import {last}: {said}']}
    facts = json.loads(last)
    faults = {}
    if facts['hip'] is None and facts['builds'][0] != facts['builds'][1]:
        builds = ['CUDA' if cuda else 'CPUs' for cuda in facts['builds']]
        faults[cure_torch()] = ['torch is built for {} and torchvision for {}'.format(*builds)]
    return ', '.join(facts['gpus']) or f'none: {why_no_gpu(facts)}', faults


def why_no_gpu(facts: dict) -> str:
    """The reason, from what PROBE found."""
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    if not facts['builds'][0] and not facts['hip']:
        return 'this torch is built for CPUs'
    if visible in ('', '-1'):
        return f'CUDA_VISIBLE_DEVICES={visible} hides all'
    if facts['warnings']:
        return facts['warnings'][0]  # such as a driver that is older than torch's CUDA
    return 'torch sees no device' if shutil.which('nvidia-smi') else 'no driver (there is no nvidia-smi)'


def cure_for(said: str) -> str | None:
    """The cure for a message of a known error, else None."""
    if re.search(r'torchvision::|PyTorch and torchvision', said):
        return cure_torch()
    if re.search(r'MMCV==|mmcv.{1,2}_ext', said):
        return cure_mmcv()
    if re.search(r'libGL\.|libgthread|libglib', said):
        return f'{PIP} uninstall -y opencv-python && {PIP} install --force-reinstall --no-deps opencv-python-headless'
    if 'comes first on sys.path' in said:
        return 'rename that folder, or start from another one'
    return None


def cure_torch() -> str:
    """Both anew, from one place."""
    needs = requirements()
    return f'{PIP} uninstall -y torch torchvision && {PIP} install "{needs["torch"]}" "{needs["torchvision"]}"'


def cure_mmcv() -> str:
    """The wheel alone."""
    return f'{PIP} uninstall -y mmcv mmcv-lite && {PIP} install "{requirements()["mmcv-lite"]}"'


def advise(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show an error as Python does and, if an import failed by what is installed, what to type."""
    sys.__excepthook__(kind, error, trace)
    if isinstance(error, ImportError) or cure_for(str(error)):
        cure = next(iter(compare(versions())), None) or cure_for(str(error))
        first = f'try `{cure}`; ' if cure else ''
        print(f'{first}`{sys.executable} {__file__}` says what does not fit', file=sys.stderr)


if __name__ == '__main__':
    main()
else:
    sys.excepthook = advise
