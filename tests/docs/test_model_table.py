"""The tables in the documents are those of the data file."""

import csv

import pytest

from docs.model_table import DATA, TABLES, insert
from tests.conftest import CONFIGS, ROOT


@pytest.mark.parametrize('document', TABLES)
def test_documents_hold_what_the_data_file_says(document):
    rows = list(csv.DictReader(DATA.open()))
    text = (ROOT / document).read_text()
    assert insert(text, rows, *TABLES[document]) == text
    rows[2] |= dict(score='45.0', log='benchmarks/log.json')
    link = '](../benchmarks/log.json)' if 'docs' in document else '](benchmarks/log.json)'
    assert f'[45.0{link}' in insert(text, rows, *TABLES[document])


def test_the_data_file_names_every_config_and_a_log_for_each_score_of_ours():
    rows = list(csv.DictReader(DATA.open()))
    assert sorted(row['config'] for row in rows) == CONFIGS
    assert all(bool(row['score']) == bool(row['log']) for row in rows)
