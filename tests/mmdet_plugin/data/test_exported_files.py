"""Annotation files as people export them are trained and scored right, or refused in one line."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.registry import DATASETS
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from backbones import UserError
from mmdet_plugin.data.annotation_reader import read_annotations
from mmdet_plugin.data.datasets import CocoDataset
from mmdet_plugin.scores.coco_metric import BACKENDS, CocoMetric, FastCocoMetric
from mmengine_plugin.checks.annotation_files import check_class_order, class_order
from mmengine_plugin.engine.sampling import SeededDataset
from tests.mmdet_plugin.data.small_sets import (
    CLASSES,
    IMAGES,
    SIZE,
    build,
    draw,
    objects,
    perfect_scores,
    run_lengths,
    score,
    settings,
    write,
)

PERFECT = {f'coco/{kind}_{item}': 1.0 for kind in ('bbox', 'segm') for item in ('mAP', 'mAP_s', 'mAP_m')}


def loaded(root: Path, *args, **options) -> list:
    """Image, size and objects of each sample as the data set loads them."""
    infos = map(build(root, *args, **options).get_data_info, range(IMAGES))
    return [
        (
            Path(info['img_path']).name,
            (info['height'], info['width']),
            [(i['bbox'], i['bbox_label'], i['ignore_flag']) for i in info['instances']],
        )
        for info in infos
    ]


def drawn(classes: tuple[str, ...] = CLASSES) -> list:
    """What the data set must load."""
    return [
        (
            f'{number}.png',
            SIZE,
            [([x, y, x + w, y + h], classes.index(name), 0) for name, (x, y, w, h) in objects(number).items()],
        )
        for number in range(IMAGES)
    ]


def without(field: str, key: str = 'annotations'):
    """A change that removes a field of all entries."""
    return lambda content: [entry.pop(field) for entry in content[key]]


def set_all(field: str, value, key: str = 'annotations'):
    """A change that sets a field of all entries to a value, or to a function of the entry's number and old value."""

    def change(content: dict) -> None:
        for number, entry in enumerate(content[key]):
            entry[field] = value(number, entry.get(field)) if callable(value) else value

    return change


def turn_ids(key: str, field: str, convert):
    """A change of the ids of images or categories and of all references to them."""

    def change(content: dict) -> None:
        for entry in content[key]:
            entry['id'] = convert(entry['id'])
        for entry in content['annotations']:
            entry[field] = convert(entry[field])

    return change


def both(*changes):
    """Several changes."""
    return lambda content: [change(content) for change in changes]


MENDED = {
    'as it is': lambda content: None,
    'categories in another order': lambda content: content['categories'].reverse(),
    'category ids from 0': turn_ids('categories', 'category_id', lambda id_: id_ - 1),
    'image ids from 0': turn_ids('images', 'image_id', lambda id_: id_ - 1),
    'image ids that are strings': turn_ids('images', 'image_id', str),
    'image ids that are floats': turn_ids('images', 'image_id', float),
    'image ids of another type in annotations': set_all('image_id', lambda _, id_: str(id_)),
    'category ids of another type in annotations': set_all('category_id', lambda _, id_: str(id_)),
    'annotation ids from 0': set_all('id', lambda number, _: number),
    'no annotation ids': without('id'),
    'negative annotation ids': set_all('id', lambda number, _: number - 3),
    'annotation ids that are strings': set_all('id', lambda number, _: f'a{number}'),
    'annotation ids that are floats': set_all('id', lambda number, _: number + 1.0),
    'annotation ids that are no integers': set_all('id', lambda number, _: number + 0.5),
    'annotation ids that no float holds': set_all('id', lambda number, _: 2**53 + number),
    'annotation ids twice': set_all('id', lambda number, _: number // 2 + 1),
    'annotations twice': lambda content: content['annotations'].extend(content['annotations'][:3]),
    'images twice': lambda content: content['images'].append(content['images'][0]),
    'no area': without('area'),
    'area of null': set_all('area', None),
    'no iscrowd': without('iscrowd'),
    'no bbox': without('bbox'),
    'no bbox and no area': both(without('bbox'), without('area')),
    'an empty bbox': set_all('bbox', []),
    'bbox of strings': set_all('bbox', lambda _, box: [f'{value:.1f}' for value in box]),
    'no image sizes': both(without('height', 'images'), without('width', 'images')),
    'image sizes of null': set_all('height', None, 'images'),
    'paths of Windows': set_all('file_name', lambda _, name: f'images\\{name}', 'images'),
    'the folder again': set_all('file_name', lambda _, name: f'images/{name}', 'images'),
    'paths on another machine': set_all('file_name', lambda _, name: f'C:\\Users\\me\\pets\\images\\{name}', 'images'),
    'a dot before the path': set_all('file_name', lambda _, name: f'./{name}', 'images'),
    'paths out of the folder': set_all('file_name', lambda _, name: f'../images/{name}', 'images'),
    'quoted paths': set_all('file_name', lambda _, name: name.replace('.', '%2E'), 'images'),
    'uploads to Label Studio': set_all('file_name', lambda _, name: f'/data/upload/1/ab12cd34-{name}', 'images'),
}


@pytest.mark.parametrize('name', MENDED)
def test_an_exported_file_is_trained_and_scored_as_it_is_meant(name, tmp_path):
    content = draw(tmp_path)
    MENDED[name](content)
    write(tmp_path, content)
    assert loaded(tmp_path) == drawn()
    assert build(tmp_path)[0]['data_samples'].gt_instances.masks.masks.sum() == 30 * 24 + 50 * 40
    for backend in BACKENDS:
        assert PERFECT.items() <= score(tmp_path, backend=backend).items()
    assert score(tmp_path, found=CLASSES[:1])['coco/bbox_mAP'] == 0.5


def test_absolute_paths_are_loaded_as_they_are(tmp_path):
    content = draw(tmp_path)
    elsewhere = (tmp_path / 'images').rename(tmp_path / 'photos')
    (tmp_path / 'images').mkdir()
    set_all('file_name', lambda _, name: str(elsewhere / name), 'images')(content)
    write(tmp_path, content)
    assert loaded(tmp_path) == drawn()


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16'])
def test_a_file_may_have_a_byte_order_mark(encoding, tmp_path):
    content = draw(tmp_path)
    content['categories'][0]['name'] = 'Käse'
    (tmp_path / 'a.json').write_bytes(json.dumps(content, ensure_ascii=False).encode(encoding))
    assert loaded(tmp_path, ('Käse', 'dog')) == drawn()


@pytest.mark.parametrize('segmentation', ['string', 'list'])
def test_boxes_and_areas_follow_from_run_lengths(segmentation, tmp_path):
    content = draw(tmp_path)
    for mark in content['annotations']:
        x, y, w, h = mark.pop('bbox')
        mark['segmentation'] = run_lengths([x, y, w, h])
        assert mark.pop('area') == w * h
        if segmentation == 'list':  # columns one below the other, background first
            rest = SIZE[0] - h
            runs = [x * SIZE[0] + y, *[h, rest] * (w - 1), h]
            mark['segmentation']['counts'] = [*runs, SIZE[0] * SIZE[1] - sum(runs)]
    write(tmp_path, content)
    assert loaded(tmp_path) == drawn()
    read = read_annotations(tmp_path / 'a.json').content['annotations']
    assert [mark['area'] for mark in read] == [w * h for i in range(IMAGES) for _, _, w, h in objects(i).values()]


def test_the_area_of_a_box_without_a_mask_is_that_of_the_box(tmp_path):
    content = draw(tmp_path)
    both(without('segmentation'), without('area'))(content)
    write(tmp_path, content)
    assert loaded(tmp_path, masks=False) == drawn()
    assert read_annotations(tmp_path / 'a.json').content['annotations'][0]['area'] == 30 * 24


@pytest.mark.parametrize('color_type', ['color', 'color_ignore_orientation'])
def test_a_size_that_is_filled_in_is_that_of_the_loaded_image(color_type, tmp_path):
    content = draw(tmp_path)
    del content['images'][0]['height']
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.open(tmp_path / 'images/0.png').save(tmp_path / 'images/0.png', exif=exif)
    write(tmp_path, content)
    options = settings(tmp_path)
    options['pipeline'][0]['color_type'] = color_type
    dataset = DATASETS.build(options)
    info = dataset.get_data_info(0)
    assert (info['height'], info['width']) == (SIZE if 'ignore' in color_type else SIZE[::-1])
    assert dataset[0]['data_samples'].ori_shape == (info['height'], info['width'])


def test_a_complete_file_is_not_changed(tmp_path):
    content = draw(tmp_path)
    file = read_annotations(write(tmp_path, content))
    assert file.content == content and not file.changes and not file.problems


def pycocotools_score(path: Path) -> float:
    """The score of the annotations as their own detections, by pycocotools alone."""
    truth = COCO(str(path))
    found = [dict(mark, score=1.0) for mark in json.loads(path.read_text())['annotations']]
    evaluation = COCOeval(truth, truth.loadRes(found), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0]


def test_pycocotools_agrees_with_the_numbered_file_and_miscounts_the_id_0(tmp_path):
    content = draw(tmp_path)
    assert pycocotools_score(write(tmp_path, content)) > 0.999
    set_all('id', lambda number, _: number)(content)
    path = write(tmp_path, content)
    assert pycocotools_score(path) < 0.95
    path.write_text(json.dumps(read_annotations(path).content))
    assert pycocotools_score(path) > 0.999


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('classes', [('cat', 'dog'), ('dog', 'cat'), ('dog',)])
def test_each_class_gets_its_own_label_and_score_whatever_the_order_of_the_config(classes, backend, tmp_path):
    write(tmp_path, draw(tmp_path))
    labels = {label for _, _, instances in loaded(tmp_path, classes) for _, label, _ in instances}
    assert labels == set(range(len(classes)))
    scores = score(tmp_path, classes, found=('dog',), classwise=True, backend=backend)
    assert [scores[f'coco/bbox_{name}_precision'] for name in classes] == [float(name == 'dog') for name in classes]


def test_a_metric_without_a_file_scores_the_annotations_of_the_data_set(tmp_path):
    content = draw(tmp_path)
    content['categories'].reverse()
    set_all('id', lambda number, _: number)(content)
    write(tmp_path, content)
    dataset = build(tmp_path, test_mode=True)
    for right in (True, False):
        metric = FastCocoMetric(metric='bbox')
        metric.dataset_meta = dataset.metainfo
        for index in range(IMAGES):
            info, sample = dataset.get_data_info(index), dataset[index]['data_samples']
            truth = sample.gt_instances
            labels = truth.labels if right else 1 - truth.labels
            found = dict(bboxes=truth.bboxes.tensor, scores=truth.labels.float() + 1, labels=labels)
            meta = dict(img_id=info['img_id'], ori_shape=sample.ori_shape, instances=info['instances'])
            metric.process({}, [meta | dict(pred_instances=found)])
        assert metric.evaluate(IMAGES)['coco/bbox_mAP'] == float(right)


# --- what is refused --------------------------------------------------------------------------------------------------


def as_crowds(content: dict, *classes: str) -> None:
    """Export the masks of some classes as tools for brushes do."""
    for mark in content['annotations']:
        if CLASSES[mark['category_id'] - 1] in classes:
            mark.update(iscrowd=1, segmentation=run_lengths(mark['bbox']))


def test_a_set_of_crowds_only_is_refused_and_a_class_of_crowds_only_is_reported(tmp_path, caplog):
    content = draw(tmp_path)
    content['annotations'][0].update(iscrowd=1, segmentation=run_lengths(objects(0)['cat']))
    write(tmp_path, content)
    assert [flag for _, _, flag in loaded(tmp_path)[0][2]] == [1, 0]
    as_crowds(content, 'cat')
    write(tmp_path, content)
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    build(tmp_path, test_mode=True)  # the score of dogs is that of the set
    assert 'crowds only' not in caplog.text
    build(tmp_path)
    logger.removeHandler(caplog.handler)
    assert f"a.json: class with crowds only: all {IMAGES} annotations of 'cat' have iscrowd=1" in caplog.text
    assert '--fix FOLDER' in caplog.text
    as_crowds(content, 'dog')
    write(tmp_path, content)
    for test_mode in (False, True):
        with pytest.raises(UserError, match="of 'cat' have iscrowd=1.*of 'dog' have iscrowd=1"):
            build(tmp_path, test_mode=test_mode)


def from_zero(content: dict) -> None:
    """Count the categories from 0 in the annotations alone: every object would get the class before its own."""
    for mark in content['annotations']:
        mark['category_id'] -= 1


def change_first(field: str, value, key: str = 'annotations'):
    """A change of the first entry."""
    return lambda content: content[key][0].update({field: value})


REFUSED = {
    'set of boxes only: none of its 8 annotations has a mask.*faster_rcnn_mambaout_tiny': without('segmentation'),
    'object without a mask: annotation 1 of 0.png: segmentation is None.*faster_rcnn': change_first(
        'segmentation', None
    ),
    r'object without a mask: annotation 1 of 0.png: segmentation is \[\]': change_first('segmentation', []),
    r'unusable mask: annotation 1 of 0.png: segmentation is \[\[\]\]': change_first('segmentation', [[]]),
    r'unusable mask: .* segmentation is \[\[1, 2, 3, 4\]\]': change_first('segmentation', [[1, 2, 3, 4]]),
    "unusable mask: .* segmentation is {'counts'": change_first('segmentation', dict(counts='abc')),
    r'object without a box: annotations\[0\] of image 1 has no bbox and no segmentation': lambda content: [
        content['annotations'][0].pop(field) for field in ('bbox', 'segmentation')
    ],
    r'box that is not four numbers: annotations\[0\] of image 1: bbox is \[1, 2, 3\]': change_first('bbox', [1, 2, 3]),
    r'box that is not four numbers: .* bbox is \[nan, 1, 2, 3\]': change_first('bbox', [float('nan'), 1, 2, 3]),
    r"box that is not four numbers: .* bbox is \['a'": change_first('bbox', ['a', 1, 2, 3]),
    'incomplete entry: .* has no category_id': lambda content: content['annotations'][0].pop('category_id'),
    r'wrong type: annotations\[0\] of image \[1\] has image_id=\[1\]': change_first('image_id', [1]),
    'duplicate id: 2 images have the id 2: 0.png, 1.png': change_first('id', 2, 'images'),
    'duplicate id: 2 categories have the id 2: cat, dog': change_first('id', 2, 'categories'),
    'annotation of an unknown category: 4 annotations have the category_id 0': from_zero,
    'has no list "categories", and its annotations have the category_id 1, 2': lambda c: c.pop('categories'),
    'no categories: its list "categories" is empty': lambda content: content.update(categories=[], annotations=[]),
    'has no list "images"': lambda content: content.pop('images'),
    'duplicate category name': change_first('name', 'dog', 'categories'),
    r'lacks 1 of the 4 images of .*a.json, the first is .*/images/7.png': change_first('file_name', '7.png', 'images'),
    'lacks 1 of .*: 0.png is there, the file says 0.PNG': change_first('file_name', '0.PNG', 'images'),
    'lacks 1 of .*: 0.png is there, the file says 0.jpg': change_first('file_name', '0.jpg', 'images'),
    'lacks 1 of .*: 0.png is there, the file says val/0.png': change_first('file_name', 'val/0.png', 'images'),
    'lacks 1 of the 4 images': change_first('file_name', 'images/1.png', 'images'),  # not the image of another entry
}


@pytest.mark.parametrize('words', REFUSED)
def test_a_file_that_cannot_be_completed_is_refused_in_one_line(words, tmp_path):
    content = draw(tmp_path)
    REFUSED[words](content)
    write(tmp_path, content)
    with pytest.raises(UserError, match=words) as error:
        build(tmp_path)
    assert 'a.json' in str(error.value) and '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        ('{"images": [', 'is damaged or not JSON'),
        ('<annotation></annotation>', "not in COCO's format: it is XML; convert the data set"),
        ('[]', "not in COCO's format: it is a list of JSON"),
    ],
)
def test_a_file_of_another_format_is_refused_in_one_line(text, words, tmp_path):
    draw(tmp_path)
    write(tmp_path, text)
    with pytest.raises(UserError, match=words):
        build(tmp_path)
    with pytest.raises(UserError, match=words):
        FastCocoMetric(ann_file=str(tmp_path / 'a.json'))


@pytest.mark.parametrize(('ending', 'name'), [('.csv', 'CSV'), ('.yaml', 'YAML'), ('.txt', 'text')])
def test_a_file_that_another_tool_writes_is_refused_in_one_line(ending, name, tmp_path):
    draw(tmp_path)
    (tmp_path / f'a{ending}').write_text('names: [cat, dog]\n')
    with pytest.raises(UserError, match=f'a{ending}: .*it is {name}; convert the data set by tools/convert_dataset.py'):
        build(tmp_path, ann_file=f'a{ending}')


def test_a_missing_image_is_not_answered_with_its_label_file(tmp_path):
    content = draw(tmp_path)
    content['images'][0]['file_name'] = 'gone.png'
    write(tmp_path, content)
    (tmp_path / 'images/gone.txt').write_text('')
    with pytest.raises(UserError, match='gone.png') as error:
        build(tmp_path)
    assert 'gone.txt' not in str(error.value)


def test_an_image_without_a_size_that_cannot_be_read_is_refused(tmp_path):
    content = draw(tmp_path)
    del content['images'][0]['width']
    (tmp_path / 'images/0.png').write_bytes(b'no image')
    write(tmp_path, content)
    with pytest.raises(UserError, match='image without a size: 0.png has no height and width, and its file cannot be'):
        build(tmp_path)


def test_masks_are_not_scored_on_a_file_of_boxes(tmp_path):
    content = draw(tmp_path)
    without('segmentation')(content)
    path = str(write(tmp_path, content))
    with pytest.raises(UserError, match="none of its 8 annotations has a mask: set metric='bbox'"):
        FastCocoMetric(ann_file=path, metric=['bbox', 'segm'])
    FastCocoMetric(ann_file=path, metric='bbox')


def test_mmdets_own_types_are_refused_where_the_file_has_another_order(tmp_path):
    content = draw(tmp_path)
    for reverse in (False, True):
        if reverse:
            content['categories'].reverse()
        path = str(write(tmp_path, content))
        stock = build(tmp_path, type='CocoDataset')
        metric = CocoMetric(ann_file=path)
        own = FastCocoMetric(ann_file=path)
        Evaluator([metric, own]).dataset_meta = stock.metainfo
        class_order(build(tmp_path), 'train_dataloader.dataset', path)
        class_order(own, 'val_evaluator', path)
        for part, key, type_ in (
            (stock, 'train_dataloader.dataset', 'CheckedCocoDataset'),
            (metric, 'val_evaluator', 'FastCocoMetric'),
        ):
            if reverse:
                with pytest.raises(
                    UserError,
                    match=rf"mmdet's own type numbers the classes .*'dog', 'cat'.*: set {key}\.type='{type_}'",
                ):
                    class_order(part, key, path)
            else:
                class_order(part, key, path)


def test_a_type_that_numbers_classes_in_its_own_way_is_not_judged(tmp_path):
    content = draw(tmp_path)
    content['categories'].reverse()
    path = str(write(tmp_path, content))
    stock = build(tmp_path, type='CocoDataset')
    own = type('Sorted', (CocoDataset,), dict(load_data_list=lambda self: []))
    stock.__class__ = own
    class_order(stock, 'train_dataloader.dataset', path)


def test_a_stock_training_set_in_wrappers_is_judged(tmp_path):
    content = draw(tmp_path)
    content['categories'].reverse()
    write(tmp_path, content)
    repeated = dict(type='RepeatDataset', times=2, dataset=settings(tmp_path, type='CocoDataset'))
    part = SimpleNamespace(dataset=SeededDataset(repeated), split='train', cfg=Config(), metrics=[])
    with pytest.raises(UserError, match="mmdet's own type numbers the classes"):
        check_class_order(part)


def test_annotations_of_a_category_that_the_file_does_not_list_are_left_out(tmp_path):
    content = draw(tmp_path)
    content['annotations'][0]['category_id'] = 7
    write(tmp_path, content)
    assert [len(build(tmp_path).get_data_info(index)['instances']) for index in range(IMAGES)] == [
        1,
        *[2] * (IMAGES - 1),
    ]


def test_a_single_unusable_mask_of_many_is_ignored_in_training(tmp_path):
    content = draw(tmp_path)
    first, *others = content['annotations']
    copies = [dict(other, id=1000 * (i + 1) + other['id']) for i in range(30) for other in others]
    write(tmp_path, content | dict(annotations=[dict(first, segmentation=[[1, 1, 21, 1]]), *others, *copies]))
    build(tmp_path)
    with pytest.raises(UserError, match='object with an unusable mask'):
        build(tmp_path, test_mode=True)  # the scores need all masks


def test_roboflows_category_of_the_project_may_have_the_name_of_a_class(tmp_path):
    content = draw(tmp_path)
    content['categories'].insert(0, dict(id=0, name='cat', supercategory='none'))
    write(tmp_path, content)
    assert build(tmp_path).cat2label == {1: 0, 2: 1}
    content['annotations'][0]['category_id'] = 0
    write(tmp_path, content)
    with pytest.raises(UserError, match="it has 'cat' twice"):
        build(tmp_path)


def test_a_metric_of_a_part_may_lack_a_class(tmp_path):
    content = draw(tmp_path)
    content['annotations'] = [mark for mark in content['annotations'] if mark['category_id'] == 1]
    content['categories'] = content['categories'][:1]
    write(tmp_path, content)
    lacking = dict(may_lack_classes=True)
    scores = perfect_scores(tmp_path, content, data=lacking, metric=['bbox', 'segm'], **lacking)
    assert scores['coco/bbox_mAP'] == scores['coco/segm_mAP'] == 1
    with pytest.raises(UserError, match="it has no category 'dog'"):  # the only file of a validation may not
        perfect_scores(tmp_path, content, data=lacking)


def test_random_polygons_have_the_area_that_a_fine_raster_has():
    from pycocotools import mask as rle

    from mmdet_plugin.data.masks import area_of

    rng = np.random.default_rng(0)
    for points in (3, 5, 8):
        angles = np.sort(rng.uniform(0, 2 * np.pi, points))
        polygon = (1000 + 800 * np.stack([np.cos(angles), np.sin(angles)], 1)).ravel().tolist()
        raster = rle.area(rle.frPyObjects([polygon], 2000, 2000))[0]
        assert abs(area_of([polygon]) - raster) < 1e-2 * raster
