"""Names, ids and paths as people write them are understood, or one line says what to write."""

import json
import os
import unicodedata

import pytest

from backbones import UserError
from mmdet_plugin.data.annotation_reader import read_annotations
from mmdet_plugin.data.check_dataset import check
from mmdet_plugin.scores.coco_metric import FastCocoMetric
from mmengine_plugin.data.folders import files_below
from tests.mmdet_plugin.data.small_sets import CLASSES, IMAGES, build, draw, perfect_scores, write

COMPOSED, DECOMPOSED = (unicodedata.normalize(kind, 'café') for kind in ('NFC', 'NFD'))


def boxes(root, classes=CLASSES) -> list[list]:
    dataset = build(root, classes)
    return [[instance['bbox'] for instance in dataset.get_data_info(i)['instances']] for i in range(len(dataset))]


def problems(root, *args, **options) -> list[str]:
    return [problem.kind for problem in check([build(root, *args, lazy_init=True, **options)])]


@pytest.mark.parametrize('types', ['images', 'annotations', 'both'])
def test_image_ids_may_be_texts_and_numbers(types, tmp_path):
    content = draw(tmp_path)
    write(tmp_path, content)
    right = boxes(tmp_path)
    changed = json.loads(json.dumps(content))
    if types in ('images', 'both'):
        for image in changed['images'][::2]:
            image['id'] = str(image['id'])
    if types in ('annotations', 'both'):
        for mark in changed['annotations'][::3]:
            mark['image_id'] = str(mark['image_id'])
    write(tmp_path, changed)
    assert boxes(tmp_path) == right and problems(tmp_path) == []
    assert perfect_scores(tmp_path, content)['coco/bbox_mAP'] == 1
    changed['images'][1]['id'] = '1'
    changed['images'][0]['id'] = 1
    write(tmp_path, changed)
    with pytest.raises(UserError, match='duplicate id: 2 images have the id 1: 0.png, 1.png'):
        build(tmp_path)


@pytest.mark.parametrize(('in_file', 'in_config'), [(DECOMPOSED, COMPOSED), (COMPOSED, DECOMPOSED)])
def test_accents_may_be_characters_of_their_own(in_file, in_config, tmp_path):
    content = draw(tmp_path)
    write(tmp_path, content)
    right = boxes(tmp_path)
    content['categories'][0]['name'] = in_file
    content['images'][2]['file_name'] = f'{in_file}.png'
    (tmp_path / 'images/2.png').rename(tmp_path / f'images/{in_config}.png')
    write(tmp_path, content)
    classes = (in_config, 'dog')
    assert boxes(tmp_path, classes) == right and problems(tmp_path, classes) == []
    content['images'][2]['file_name'] = f'{in_config}.png'  # the names that the images have
    scores = perfect_scores(tmp_path, content, classes, classwise=True)
    assert scores[f'coco/{COMPOSED}_precision'] == 1
    with pytest.raises(UserError, match="no category 'cafe'"):
        build(tmp_path, ('cafe', 'dog'))


def test_names_of_classes_may_be_numbers(tmp_path):
    content = draw(tmp_path)
    write(tmp_path, content)
    right = boxes(tmp_path)
    for number, category in enumerate(content['categories'], start=1):
        category['name'] = number
    write(tmp_path, content)
    assert boxes(tmp_path, (1, 2)) == boxes(tmp_path, ('1', '2')) == right and problems(tmp_path, (1, 2)) == []
    assert perfect_scores(tmp_path, content, (1, 2), classwise=True)['coco/2_precision'] == 1
    with pytest.raises(UserError, match="no category '3'"):
        build(tmp_path, (1, 3))


def test_blanks_in_names_are_shown(tmp_path):
    content = draw(tmp_path)
    content['categories'][0]['name'] = 'cat '
    write(tmp_path, content)
    with pytest.raises(UserError, match=r"no category 'cat' \(did you mean 'cat '\?\); it has 'cat ', 'dog': set"):
        build(tmp_path)


def test_a_folder_that_links_to_its_parent_is_read_once(tmp_path):
    write(tmp_path, draw(tmp_path))
    (tmp_path / 'images/images').symlink_to(tmp_path / 'images')
    (tmp_path / 'images/itself').symlink_to(tmp_path / 'images/itself')
    assert sorted(files_below(str(tmp_path / 'images'))) == [*(f'{i}.png' for i in range(IMAGES)), 'itself']
    assert len(boxes(tmp_path)) == IMAGES and problems(tmp_path) == []


def test_a_folder_that_is_linked_twice_is_found_by_both_names(tmp_path):
    content = draw(tmp_path)
    (tmp_path / 'images').rename(tmp_path / 'real')
    (tmp_path / 'images').mkdir()
    for name in 'ab':
        (tmp_path / 'images' / name).symlink_to(tmp_path / 'real')
    for image, name in zip(content['images'], 'abab', strict=True):
        image['file_name'] = f'{name}/{image["file_name"]}'
    write(tmp_path, content)
    assert len(boxes(tmp_path)) == IMAGES and problems(tmp_path) == []


def test_hidden_files_and_folders_are_found(tmp_path):
    content = draw(tmp_path)
    (tmp_path / 'images/.hidden').mkdir()
    for image, name in zip(content['images'], ('.0.png', '.hidden/1.png', '2.png', '3.png'), strict=True):
        (tmp_path / 'images' / image['file_name']).rename(tmp_path / 'images' / name)
        image['file_name'] = name
    write(tmp_path, content)
    assert len(boxes(tmp_path)) == IMAGES and problems(tmp_path) == []
    os.remove(tmp_path / 'images/.0.png')
    with pytest.raises(UserError, match='lacks 1 of the 4 images'):
        build(tmp_path)
    assert problems(tmp_path) == ['missing file']


@pytest.mark.parametrize('key', ['ann_file', 'data_prefix'])
def test_a_path_that_has_data_root_twice_is_answered_with_the_path_to_write(key, tmp_path, monkeypatch, capsys):
    write(tmp_path / 'data', draw(tmp_path / 'data'))
    monkeypatch.chdir(tmp_path)
    right = dict(data_root='data/', ann_file='a.json', data_prefix=dict(img='images/'))
    build('data', **right)
    wrong = dict(ann_file='data/a.json') if key == 'ann_file' else dict(data_prefix=dict(img='data/images/'))
    name = 'a.json' if key == 'ann_file' else 'images'
    message = f"data/{name} is there, and ann_file and data_prefix are relative to data_root: write '{name}'"
    with pytest.raises(UserError, match=message):
        build('data', **(right | wrong))
    problems('data', **(right | wrong))
    assert message in capsys.readouterr().out


def test_the_key_of_mmsegmentation_is_refused(tmp_path):
    write(tmp_path, draw(tmp_path))
    for prefix in (dict(img_path='images/'), dict(img='x/', img_path='images/')):
        with pytest.raises(UserError, match=r"mmsegmentation: write data_prefix=dict\(img='images/'\)"):
            build(tmp_path, data_prefix=prefix)


def test_a_folder_in_place_of_a_file_is_answered_with_the_files_in_it(tmp_path):
    write(tmp_path, draw(tmp_path))
    message = 'unreadable annotation file: it is a folder with the files a.json; name a file in ann_file'
    with pytest.raises(UserError, match=message):
        build(tmp_path, ann_file='./')
    with pytest.raises(UserError, match=message):
        FastCocoMetric(ann_file=str(tmp_path))
    assert problems(tmp_path, ann_file='./') == ['unreadable annotation file']


def test_categories_that_are_a_dict_are_refused(tmp_path):
    content = draw(tmp_path)
    content['categories'] = {str(category['id']): category for category in content['categories']}
    write(tmp_path, content)
    with pytest.raises(UserError, match='it has no list "categories"'):
        build(tmp_path)
    assert len(read_annotations(tmp_path / 'a.json').problems) == 1
