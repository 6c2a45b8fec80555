"""Each row of docs/data_problems.md is held by a test that exists."""

import re

import pytest

from tests.conftest import ROOT

ROWS = re.findall(r'^\| (?!thread|---)(.*) \|$', (ROOT / 'docs/data_problems.md').read_text(), re.M)


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.split(' | ')[0])
def test_each_row_names_a_test_that_exists(row):
    thread, happened, happens, test = row.split(' | ')
    assert thread and happened and happens
    path, name = re.fullmatch(r'`(tests/\S+\.py)::(test_\w+)`', test).groups()
    assert f'def {name}(' in (ROOT / path).read_text()


def test_there_are_rows():
    assert len(ROWS) > 30
