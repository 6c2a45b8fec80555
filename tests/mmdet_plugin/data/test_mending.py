"""Mended copies of annotation files train and score as meant, and nothing is invented."""

import copy
import json
from pathlib import Path

import pytest
from mmengine.config import Config

from backbones import UserError
from mmdet_plugin.data.check_dataset import check
from mmdet_plugin.data.mending import print_settings, write_mended
from tests.mmdet_plugin.data.small_sets import IMAGES, SIZE, build, draw, objects, run_lengths, score, write


def mended(root: Path) -> dict:
    """Write a mended copy of ``root/a.json``, and return its content."""
    before = (root / 'a.json').read_bytes()
    copies = write_mended([build(root, lazy_init=True)], root / 'mended')
    assert copies == {str(root / 'a.json'): str(root / 'mended/a.json')}
    assert (root / 'a.json').read_bytes() == before
    return json.loads((root / 'mended/a.json').read_text())


def problems(root: Path, **options) -> list[str]:
    """The kinds of problems of the set in ``root``."""
    return [problem.kind for problem in check([build(root, lazy_init=True, **options)])]


def test_a_mended_file_has_no_problem_and_the_objects_that_were_drawn(tmp_path):
    content = draw(tmp_path)
    right = copy.deepcopy(content)
    height, width = SIZE
    content['info'] = dict(year=2026)
    for number, mark in enumerate(content['annotations']):
        mark['id'] = number
        del mark['iscrowd']
    for image in content['images']:
        image['file_name'] = 'images\\' + image['file_name']
        del image['height']
    marks = content['annotations']
    marks[0]['area'] = 0
    marks[1]['bbox'] = [60, 20, 0, 0]
    marks[2].pop('area')
    edge = dict(image_id=1, category_id=1, iscrowd=0)
    x, y, w, h = width - 20, height - 10, 20, 10
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    marks.append(edge | dict(bbox=[x, y, 60, 40], area=w * h, segmentation=[polygon]))
    right['annotations'].append(edge | dict(bbox=[x, y, w, h], area=w * h, segmentation=[polygon]))
    write(tmp_path, content)
    assert set(problems(tmp_path)) == {'object without area', 'empty box', 'box outside its image'} | {
        'polygons that do not fit their box'
    }
    found = mended(tmp_path)
    for number, mark in enumerate(right['annotations'], start=1):
        mark['id'] = number
    assert found['annotations'] == right['annotations'] and found['images'] == right['images']
    assert found['info'] == content['info']
    assert problems(tmp_path, ann_file='mended/a.json') == []


def test_an_empty_box_without_a_mask_is_removed(tmp_path):
    content = draw(tmp_path)
    for mark in content['annotations']:
        del mark['segmentation']
    content['annotations'][3]['bbox'] = [5, 5, 0, 9]
    write(tmp_path, content)
    assert [mark['id'] for mark in mended(tmp_path)['annotations']] == [1, 2, 3, 5, 6, 7, 8]


def test_crowds_become_objects_where_the_class_has_crowds_only(tmp_path):
    content = draw(tmp_path)
    for mark in content['annotations']:
        name = 'cat' if mark['category_id'] == 1 else 'dog'
        if name == 'cat' or mark['id'] == 2:
            mark.update(iscrowd=1, segmentation=run_lengths(objects(mark['image_id'] - 1)[name]))
    write(tmp_path, content)
    assert problems(tmp_path) == ['class with crowds only']
    found = mended(tmp_path)
    assert [mark['iscrowd'] for mark in found['annotations']] == [0, 1] + [0] * (2 * IMAGES - 2)
    assert found['annotations'][0]['segmentation'] == content['annotations'][0]['segmentation']  # still run lengths
    assert problems(tmp_path, ann_file='mended/a.json') == []
    (tmp_path / 'a.json').write_text(json.dumps(found))
    assert score(tmp_path, found=('cat',), classwise=True)['coco/bbox_cat_precision'] == 1


def test_nothing_is_invented(tmp_path):
    content = draw(tmp_path)
    content['annotations'][0].update(category_id=7, area=0)
    content['annotations'][1] = 'unreadable'
    content['images'][1]['height'] = 50
    content['images'][2]['file_name'] = '7.png'
    write(tmp_path, content)
    expected = problems(tmp_path)
    expected.remove('object without area')
    assert {'annotation of an unknown category', 'entry of the wrong type', 'missing file'} <= set(expected)
    found = mended(tmp_path)
    assert found['annotations'][-1] == 'unreadable' and found['categories'] == content['categories']
    assert found['images'] == content['images']
    assert sorted(problems(tmp_path, ann_file='mended/a.json')) == sorted(expected)


def test_a_box_without_a_mask_is_clipped_to_its_image(tmp_path):
    content = draw(tmp_path)
    for mark in content['annotations']:
        del mark['segmentation']
    content['annotations'][0]['bbox'] = [-5, 90, 30, 20]
    write(tmp_path, content)
    first, second = mended(tmp_path)['annotations'][:2]
    assert first['bbox'] == [0, 90, 25, 6] and first['area'] == 25 * 6
    assert second == content['annotations'][1]


def test_boxes_that_are_corners_are_not_clipped(tmp_path):
    content = draw(tmp_path)
    for mark in content['annotations']:
        x, y, w, h = mark['bbox']
        mark.update(bbox=[x, y, x + w, y + h], area=None)
        del mark['segmentation']
    write(tmp_path, content)
    assert 'box outside its image' in problems(tmp_path)
    assert [mark['bbox'] for mark in mended(tmp_path)['annotations']] == [m['bbox'] for m in content['annotations']]


def test_a_sound_file_gets_no_copy_and_no_file_is_overwritten(tmp_path, capsys):
    content = draw(tmp_path)
    write(tmp_path, content)
    assert write_mended([build(tmp_path, lazy_init=True)], tmp_path / 'mended') == {}
    assert 'has nothing to mend in' in capsys.readouterr().out and not (tmp_path / 'mended').exists()
    del content['annotations'][0]['area']
    write(tmp_path, content)
    with pytest.raises(UserError, match=r'a\.json exists already: name a new folder'):
        write_mended([build(tmp_path, lazy_init=True)], tmp_path)
    assert json.loads((tmp_path / 'a.json').read_text()) == content


def test_files_of_the_same_name_get_the_name_of_their_folder_and_the_settings_are_printed(tmp_path, capsys):
    sets = []
    for split in ('train', 'val'):
        content = draw(tmp_path / split)
        del content['annotations'][0]['area']
        write(tmp_path / split, content)
        sets.append(build(tmp_path / split, lazy_init=True))
    copies = write_mended(sets, tmp_path / 'mended')
    assert sorted(path.name for path in (tmp_path / 'mended').iterdir()) == ['train_a.json', 'val_a.json']
    loaders = {
        f'{split}_dataloader': dict(dataset=dict(data_root=str(tmp_path / split), ann_file='a.json'))
        for split in ('train', 'val')
    }
    print_settings(Config(loaders | dict(val_evaluator=dict(ann_file=str(tmp_path / 'val/a.json')))), copies)
    printed = '\n'.join(line for line in capsys.readouterr().out.splitlines() if ' = dict' in line)
    settings = Config.fromstring(printed, '.py')
    assert settings.train_dataloader.dataset.ann_file == str(tmp_path / 'mended/train_a.json')
    assert settings.val_dataloader.dataset.ann_file == str(tmp_path / 'mended/val_a.json')
    assert settings.val_evaluator.ann_file == str(tmp_path / 'mended/val_a.json')
