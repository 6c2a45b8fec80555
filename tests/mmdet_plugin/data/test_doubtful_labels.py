"""Labels that training leaves out or takes wrongly: it says so, and the check of the data finds them."""

import copy
import json

import pytest

from backbones import UserError
from mmdet_plugin.data.check_dataset import check
from mmdet_plugin.data.mending import mend
from tests.mmdet_plugin.data.small_sets import (
    CLASSES,
    IMAGES,
    SIZE,
    build,
    draw,
    objects,
    perfect_scores,
    run_lengths,
    write,
)


def kinds(root, **options) -> list[str]:
    return [problem.kind for problem in check([build(root, lazy_init=True, **options)])]


# --- images that are left out -----------------------------------------------------------------------------------------

FILTER = dict(filter_empty_gt=True, min_size=32)


def test_training_and_check_say_which_images_are_left_out(tmp_path, logged, capsys):
    content = draw(tmp_path)
    content['annotations'] = [mark for mark in content['annotations'] if mark['image_id'] > 1]
    write(tmp_path, content)
    dataset = build(tmp_path, filter_cfg=FILTER)
    line = '1 of 4 images have no objects and are left out; to train on them, set '
    line += 'train_dataloader.dataset.filter_cfg.filter_empty_gt=False'
    assert len(dataset) == IMAGES - 1 and f'{tmp_path}/a.json: {line}' in logged()
    assert kinds(tmp_path, filter_cfg=FILTER) == [] and line in capsys.readouterr().out
    before = len(logged())
    assert len(build(tmp_path, filter_cfg=dict(FILTER, filter_empty_gt=False))) == IMAGES
    assert len(build(tmp_path, filter_cfg=FILTER, test_mode=True)) == IMAGES
    assert logged()[before:] == []


def test_training_and_check_say_that_low_images_are_left_out(tmp_path, logged, capsys):
    content = draw(tmp_path)
    write(tmp_path, content)
    line = '4 of 4 images are lower or narrower than 97 pixels and are left out; to train on them, set '
    line += 'train_dataloader.dataset.filter_cfg.min_size=0'
    with pytest.raises(UserError, match='none of its 4 images is left'):
        build(tmp_path, filter_cfg=dict(min_size=97))
    assert f'{tmp_path}/a.json: {line}' in logged()
    kinds(tmp_path, filter_cfg=dict(min_size=97))
    assert line in capsys.readouterr().out
    kinds(tmp_path, filter_cfg=dict(min_size=96))
    assert 'left out' not in capsys.readouterr().out


def test_the_check_names_classes_without_objects(tmp_path, capsys):
    content = draw(tmp_path)
    content['annotations'] = content['annotations'][::2]
    write(tmp_path, content)
    assert kinds(tmp_path) == []
    assert "a.json: 1 of 2 classes have no objects: 'dog'" in capsys.readouterr().out


# --- objects that are left out ----------------------------------------------------------------------------------------


def fractions(mark: dict) -> None:
    x, y, w, h = mark['bbox']
    mark['bbox'] = [x / SIZE[1], y / SIZE[0], w / SIZE[1], h / SIZE[0]]


UNUSABLE = {
    'narrower than a pixel': fractions,
    'boxes that are narrower than a pixel': lambda mark: mark['bbox'].__setitem__(2, 0.9),
    r'bbox is \[4, 5, -30, 24\], and boxes': lambda mark: mark['bbox'].__setitem__(2, -30),
    'area is 0, and objects without area': lambda mark: mark.update(area=0),
    'outside the image of 128x96 pixels': lambda mark: mark['bbox'].__setitem__(1, 96),
}


@pytest.mark.parametrize('test_mode', [False, True])
@pytest.mark.parametrize('words', UNUSABLE)
def test_a_set_without_usable_objects_is_refused_and_a_few_are_reported(words, test_mode, tmp_path, logged):
    content = draw(tmp_path)
    UNUSABLE[words](content['annotations'][0])
    write(tmp_path, content)
    dataset = build(tmp_path, test_mode=test_mode)
    assert sum(len(dataset.get_data_info(index)['instances']) for index in range(IMAGES)) == 2 * IMAGES - 1
    assert any('1 of 8 objects are left out; the first is annotation 1 of 0.png: ' in line for line in logged())
    assert kinds(tmp_path)
    for mark in content['annotations'][1:]:
        UNUSABLE[words](mark)
    write(tmp_path, content)
    with pytest.raises(UserError, match=f'none of its 8 objects can be used; the first is annotation 1 .*{words}'):
        build(tmp_path, test_mode=test_mode)


def test_a_box_of_a_pixel_is_used_and_a_narrower_one_is_a_problem(tmp_path, logged):
    content = draw(tmp_path)
    for mark in content['annotations']:
        del mark['segmentation']
        mark.update(bbox=[5 + mark['category_id'], 5, 1, 40], area=40)
    write(tmp_path, content)
    assert len(build(tmp_path, masks=False).get_data_info(0)['instances']) == 2
    assert kinds(tmp_path, masks=False) == [] and not any('left out' in line for line in logged())
    content['annotations'][0]['bbox'][2] = 0.9
    write(tmp_path, content)
    assert kinds(tmp_path, masks=False) == ['box that is narrower than a pixel']


# --- objects that are ignored -----------------------------------------------------------------------------------------


@pytest.mark.parametrize('masks', ['polygons', 'none'])
def test_an_ignored_object_is_neither_trained_nor_scored(masks, tmp_path):
    content = draw(tmp_path)
    for mark in content['annotations'][::3]:
        mark['ignore'] = 1
        if masks == 'none':
            del mark['segmentation']
    write(tmp_path, content)
    flags = [i['ignore_flag'] for k in range(IMAGES) for i in build(tmp_path).get_data_info(k)['instances']]
    assert flags == [int(i % 3 == 0) for i in range(2 * IMAGES)]
    build(tmp_path)[0]  # the masks can be loaded
    assert kinds(tmp_path) == []
    found = copy.deepcopy(content)
    found['annotations'] = [mark for mark in content['annotations'] if not mark.get('ignore')]
    for predictions in (content, found):
        assert perfect_scores(tmp_path, predictions, metric=['bbox', 'segm'])['coco/segm_mAP'] == 1
    found['annotations'].pop()
    assert perfect_scores(tmp_path, found)['coco/bbox_mAP'] < 1


# --- what the check finds, and what --fix mends -----------------------------------------------------------------------


def test_an_object_that_is_annotated_twice_is_found_and_removed(tmp_path):
    content = draw(tmp_path)
    right = copy.deepcopy(content['annotations'])
    content['annotations'] += [dict(content['annotations'][0], id=1000)]
    content['annotations'] += [dict(content['annotations'][1], id=1001, category_id=1, segmentation=[], iscrowd=0)]
    del content['annotations'][-1]['segmentation']
    path = write(tmp_path, content)
    assert kinds(tmp_path, masks=False) == ['object that is annotated twice']  # another class is no copy
    problem = check([build(tmp_path, lazy_init=True, masks=False)])[0]
    assert problem.detail == 'annotation 1000 of 0.png has the class and the box of annotation 1'
    mended = mend(build(tmp_path, lazy_init=True))
    assert mended.content['annotations'][: len(right)] == right and len(mended.content['annotations']) == len(right) + 1
    path.write_text(json.dumps(mended.content))
    assert kinds(tmp_path, masks=False) == []


WRONG_AREAS = {
    'that of the image': lambda mark: SIZE[0] * SIZE[1] * 2,
    'in other pixels': lambda mark: mark['area'] * 100,
    'one': lambda mark: 1.0,
}


@pytest.mark.parametrize('masks', [True, False])
@pytest.mark.parametrize('name', WRONG_AREAS)
def test_an_area_that_cannot_be_that_of_the_object_is_found_and_mended(name, masks, tmp_path):
    content = draw(tmp_path)
    if not masks:
        for mark in content['annotations']:
            mark.update(bbox=[5, 5, 40, 40], area=1600, category_id=1 + mark['id'] % 2)
            del mark['segmentation']
    right = [mark['area'] for mark in content['annotations']]
    for mark in content['annotations']:
        mark['area'] = WRONG_AREAS[name](mark)
    path = write(tmp_path, content)
    assert kinds(tmp_path, masks=masks) == ['area that does not fit its object'] * 2 * IMAGES
    mended = mend(build(tmp_path, lazy_init=True, masks=masks))
    assert [mark['area'] for mark in mended.content['annotations']] == right
    path.write_text(json.dumps(mended.content))
    assert kinds(tmp_path, masks=masks) == []


def test_areas_of_masks_and_of_boxes_are_accepted(tmp_path):
    content = draw(tmp_path)
    for mark in content['annotations']:
        x, y, w, h = mark['bbox']
        if mark['id'] % 3 == 0:  # a diagonal stroke
            mark.update(segmentation=[[x, y, x + 2, y, x + w, y + h, x + w - 2, y + h]], area=2 * h)
        elif mark['id'] % 3 == 1:
            mark.update(segmentation=run_lengths(mark['bbox']), area=float(w * h))
        else:
            mark.update(segmentation=[[x, y, x + w, y, x, y + h]], area=w * h)  # the area of the box
    write(tmp_path, content)
    assert kinds(tmp_path) == []


def test_boxes_in_percent_are_found(tmp_path):
    content = draw(tmp_path)
    for image in content['images']:
        image.update(height=960, width=1280)
    content['annotations'] += [
        dict(mark, id=100 + mark['id'], bbox=[x / 10 for x in (3, 9, 100, 90)], area=90.0)
        for mark in content['annotations']
    ]
    for mark in content['annotations']:
        del mark['segmentation']
        mark['bbox'] = [value * 0.7 for value in mark['bbox']]
        mark['area'] = mark['bbox'][2] * mark['bbox'][3]
    write(tmp_path, content)
    assert kinds(tmp_path, masks=False).count('boxes in percent of the image size') == 1
    content['annotations'][0]['bbox'][0] = 300
    write(tmp_path, content)
    assert 'boxes in percent of the image size' not in kinds(tmp_path, masks=False)


def test_the_drawn_set_has_no_problem(tmp_path, logged, capsys):
    write(tmp_path, draw(tmp_path))
    build(tmp_path, filter_cfg=FILTER)
    capsys.readouterr()
    assert kinds(tmp_path, filter_cfg=FILTER) == [] and logged() == [] and capsys.readouterr().out == ''
    assert set(objects(0)) == set(CLASSES)
