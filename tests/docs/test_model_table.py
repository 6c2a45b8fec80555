"""The tables in the documents are those of the data files, and the scores of ours those of records."""

import json
import re
import shlex
import sys

import pytest
from mmengine.config import Config

from backbones.errors import UserError
from docs import check_records
from docs.model_table import DATA, OTHERS, SCOPES, TABLES, insert, measure, our_scores, read, tables, tables_of_others
from tests.conftest import CONFIGS, ROOT, ZOO


@pytest.mark.parametrize('document', TABLES)
def test_documents_hold_what_the_data_file_says(document):
    rows, text = read(DATA), (ROOT / document).read_text()
    assert insert(text, tables(rows, our_scores(), *TABLES[document])) == text
    scores = {rows[2]['config']: ('45.0 / 41.0', 'benchmarks/results/records/tiny.json')}
    link = (
        'benchmarks/results/records/tiny.json' if document == 'README.md' else '../benchmarks/results/records/tiny.json'
    )
    assert f'| [45.0 / 41.0]({link}) |' in insert(text, tables(rows, scores, *TABLES[document]))


def test_the_readme_lists_the_papers_models_alone_and_the_page_lists_all():
    rows = read(DATA)
    rows += [
        rows[2] | dict(config=name, data=data)
        for data, names in (
            ('COCO', ['mask_rcnn_mambaout_tiny_3x', 'retinanet_mambaout_tiny', 'mask2former_mambaout_tiny_coco']),
            ('ADE20K', ['fpn_mambaout_tiny', 'mask2former_mambaout_tiny_ade20k']),
        )
        for name in names
        if name not in [row['config'] for row in rows]
    ]
    listed = {document: tables(rows, {}, *arguments) for document, arguments in TABLES.items()}
    assert listed['docs/models.md'].count('](') == len(rows)
    coco, ade20k = listed['docs/models.md'].split('\n\n')
    assert all((f'[{row["config"]}]' in coco) == (row['data'] == 'COCO') for row in rows)
    assert all((f'[{row["config"]}]' in ade20k) == (row['data'] == 'ADE20K') for row in rows)
    for row in rows:
        ours = row['config'].startswith(('mask_rcnn_mambaout', 'upernet_mambaout')) and not row['config'].endswith('3x')
        assert (f'[{row["config"]}]' in listed['README.md']) == ours


def test_the_data_file_names_every_config_and_its_data_set():
    rows = read(DATA)
    names = [row['config'] for row in rows]
    assert len(names) == len(set(names)) and set(names) == {*CONFIGS, *ZOO}
    for row in rows:
        assert row['data'] == SCOPES[Config.fromfile(ROOT / f'configs/{row["config"]}.py').default_scope]


def test_what_a_row_lacks_is_filled_in_and_nothing_else_is_measured():
    row = next(row for row in read(DATA) if row['config'] == 'upernet_mambaout_tiny')
    assert measure(row | dict(data='', params='1.00', macs='2.00', kept=''), memory=False) == row | dict(
        params='1.00', macs='2.00', kept=''
    )


def test_our_scores_are_those_of_the_records(tmp_path):
    for name, scores in (
        ('mask_rcnn_mambaout_tiny', {'coco/bbox_mAP': 0.451, 'coco/segm_mAP': 0.41, 'coco/bbox_mAP_50': 0.673}),
        ('vmamba/upernet_vmamba_tiny', {'mIoU': 47.31, 'aAcc': 82.0}),
    ):
        record = dict(scores=scores, config=dict(path=f'configs/{name}.py'))
        (tmp_path / f'{name.split("/")[-1]}.json').write_text(json.dumps(record))
    assert our_scores(tmp_path) == {
        'mask_rcnn_mambaout_tiny': ('45.1 / 41.0', 'benchmarks/results/records/mask_rcnn_mambaout_tiny.json'),
        'vmamba/upernet_vmamba_tiny': ('47.3', 'benchmarks/results/records/upernet_vmamba_tiny.json'),
    }


def test_the_commands_for_records_get_as_far_as_the_record(monkeypatch, tmp_path):
    text = (ROOT / 'docs/training.md').read_text()
    lines = re.findall(r'^python docs/(check_records\.py .*)$', text, re.M)
    assert len(lines) == 2
    monkeypatch.chdir(tmp_path)
    for line in lines:
        monkeypatch.setattr(sys, 'argv', shlex.split(line, comments=True))
        with pytest.raises(UserError, match='records/tiny.json is no record'):
            check_records.main()
    monkeypatch.setattr(sys, 'argv', ['check_records.py', '--add'])
    with pytest.raises(UserError, match='belong to one record: name it'):
        check_records.main()
    monkeypatch.setattr(sys, 'argv', ['check_records.py', 'records/tiny.json', '--add'])
    with pytest.raises(UserError, match='--add needs the file that was tested: name it by --checkpoint'):
        check_records.main()
    for text, key in (('{"mIoU": 47.4}', 'scores'), ('[]', 'all'), ('null', 'all')):
        (tmp_path / 'scores.json').write_text(text)
        with pytest.raises(UserError, match=f'scores.json is no record of tools/test.py: it lacks {key}, '):
            check_records.problems(tmp_path / 'scores.json')


def test_what_others_published_stands_in_the_comparison_and_names_its_source():
    rows, text = read(OTHERS), (ROOT / 'docs/comparison.md').read_text()
    written = tables_of_others(rows)
    assert insert(text, written, 'published by others') == text and written in text
    assert written.count('](https://github.com/') == len(rows)
    for row in rows:  # each has the scores of its data set, and no other
        assert bool(row['box_ap'] and row['mask_ap']) == (row['data'] == 'COCO') != bool(row['miou'])
