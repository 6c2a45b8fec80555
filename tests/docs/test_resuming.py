"""The table in docs/resuming.md lists whatever is registered for a run, and names tests that exist."""

import re
import subprocess
import sys

from tests.conftest import ROOT

PAGE = (ROOT / 'docs/resuming.md').read_text()
TABLE = PAGE[PAGE.index('## What resumes exactly') :]
PROGRAM = """
import mmdet_plugin, mmdet.engine, mmdet.datasets, mmseg_plugin, mmseg.engine, mmseg.datasets
import mmengine_plugin.cli.launching
from mmengine import registry
for name in ('HOOKS', 'LOOPS', 'DATA_SAMPLERS', 'OPTIM_WRAPPERS', 'OPTIM_WRAPPER_CONSTRUCTORS', 'PARAM_SCHEDULERS',
             'MODEL_WRAPPERS', 'RUNNERS', 'STRATEGIES', 'DATASETS'):
    root = getattr(registry, name)
    for part in (root, *root.children.values()):
        for entry in part.module_dict:
            print(name, entry)
"""


def registered() -> list[str]:
    """Names of what a run can be built from. Of the data sets, only those that wrap another one."""
    done = subprocess.run([sys.executable, '-c', PROGRAM], capture_output=True, text=True, check=True, cwd=ROOT)
    pairs = [line.split() for line in done.stdout.splitlines() if re.fullmatch(r'[A-Z_]+ \w+', line)]
    wrappers = r'(Concat|Repeat|ClassBalanced|MultiImageMix|Seeded)Dataset'
    return [name for registry, name in pairs if registry != 'DATASETS' or re.fullmatch(wrappers, name)]


def is_listed(name: str) -> bool:
    """Whether the table names something, or the schedule of the learning rate that shares its code."""
    schedule = re.sub('(Momentum|ParamScheduler)$', 'LR', name)
    return f'`{name}`' in TABLE or f'`{schedule}`' in TABLE


def test_the_table_lists_all_that_is_registered():
    names = registered()
    assert len(names) > 100
    assert [name for name in names if not is_listed(name)] == []
    assert not is_listed('NoSuchHook')


def test_the_table_names_tests_that_exist():
    for name in set(re.findall(r'`((?:tests/[\w/]+/)?test_\w+\.py)`', TABLE)):
        assert (ROOT / name).is_file() or (ROOT / 'tests/mmengine_plugin/engine' / name).is_file(), name
