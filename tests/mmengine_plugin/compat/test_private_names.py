"""Private names of other libraries are known to one module, and the installed versions still have them."""

import ast
from functools import cache
from pathlib import Path

import pytest

from mmengine_plugin.compat.private_names import PRIVATE
from tests.conftest import ROOT

PACKAGES = (
    'backbones',
    'benchmarks',
    'mmdet_plugin',
    'mmengine_plugin',
    'mmseg_plugin',
    'projects',
    'timm_plugin',
    'tools',
)
ADAPTER = ROOT / 'mmengine_plugin/compat/private_names.py'
OTHERS = sorted(path for package in PACKAGES for path in (ROOT / package).rglob('*.py') if path != ADAPTER)


def is_private(name: str) -> bool:
    return name.startswith('_') and not name.startswith('__')


def has(owner: object, name: str) -> bool:
    """Whether an object has an attribute, or a class has one or names one in a constructor."""
    if hasattr(owner, name):
        return True
    constructors = [vars(cls)['__init__'] for cls in getattr(owner, '__mro__', ()) if '__init__' in vars(cls)]
    codes = [constructor.__code__ for constructor in constructors if hasattr(constructor, '__code__')]
    return any(name in code.co_names or name in code.co_consts for code in codes)


@cache
def own_names() -> set[str]:
    """The private names that our own code defines: functions, classes, variables and attributes."""
    names = set()
    for path in OTHERS:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(node.name)
            elif isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Store):
                names.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    return names


def used_names(source: str) -> set[str]:
    """The private names that a module reads from objects or modules, or imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.update((node.module or '').split('.'), *(alias.name.split('.') for alias in node.names))
        elif isinstance(node, ast.Import):
            names.update(*(alias.name.split('.') for alias in node.names))
    return {name for name in names if is_private(name)}


@pytest.mark.parametrize(
    ('owner', 'name'),
    [pytest.param(o, n, id=f'{getattr(o, "__name__", o)}.{n}') for o, names in PRIVATE.items() for n in names],
)
def test_upstream_still_has_the_private_name(owner, name):
    assert has(owner, name)


def test_a_name_that_upstream_has_renamed_is_missed():
    owner = next(iter(PRIVATE))
    assert not has(owner, f'{PRIVATE[owner][0]}_of_before')


def test_every_private_name_in_the_adapter_is_listed():
    listed = {name for names in PRIVATE.values() for name in names}
    source = ADAPTER.read_text()
    classes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
    overridden = {part.name for node in classes for part in node.body if isinstance(part, ast.FunctionDef)}
    assert used_names(source) | set(filter(is_private, overridden)) == listed


@pytest.mark.parametrize('path', OTHERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_module_uses_a_private_name_of_upstream(path: Path):
    ours = own_names() - {name for names in PRIVATE.values() for name in names}
    assert used_names(path.read_text()) <= ours | {'_base_', '_delete_', '_scope_'}


def test_a_private_name_of_upstream_would_be_found():
    assert used_names('from torch.utils._pytree import tree_leaves\nrunner._resume') == {'_pytree', '_resume'}
