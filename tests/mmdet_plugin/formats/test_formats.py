"""Data sets of other formats are read to the boxes, polygons and masks that were written."""

import base64
import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backbones import UserError
from mmdet_plugin.formats import READERS, Folder
from tests.mmdet_plugin.formats.label_files import (
    BOX,
    HEIGHT,
    HOLED,
    POLYGON,
    WIDTH,
    annotations,
    coco_content,
    convert,
    cvat_file,
    draw,
    labelme_file,
    labelme_shape,
    names,
    pairs,
    png,
    rectangle,
    save,
    supervisely_object,
    voc_file,
    voc_object,
    yolo_box,
    yolo_polygon,
)


@pytest.mark.parametrize('layout', ['images/train', 'train/images', 'flat with lists', 'roboflow'])
def test_yolos_boxes_are_read_in_each_layout(layout, tmp_path):
    src = tmp_path / 'src'
    text = f'1 {yolo_box(*BOX)}\n0 {yolo_box(0, 0, 8, 4)}\n'
    if layout == 'flat with lists':  # Darknet, as CVAT exports it, with paths of Windows
        for name in 'abn':
            draw(src / f'obj_train_data/{name}.JPG')
            save(src / f'obj_train_data/{name}.txt', text * (name != 'n'))
        save(src / 'train.txt', 'data\\obj_train_data\\a.JPG\r\n\r\ndata/obj_train_data/n.JPG\n')
        save(src / 'valid.txt', 'C:\\work\\data\\obj_train_data\\b.JPG\n')
        save(src / 'obj.data', 'classes = 2\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\n')
        save(src / 'obj.names', '\ufeffdog\ncat\n')
    else:
        place = '{split}/{kind}' if layout != 'images/train' else '{kind}/{split}'
        val = 'valid' if layout == 'roboflow' else 'val'
        for name, split in (('a', 'train'), ('n', 'train'), ('b', val)):
            draw(src / place.format(split=split, kind='images') / f'{name}.JPG')
            if name != 'n':
                save(src / place.format(split=split, kind='labels') / f'{name}.txt', text)
        if layout == 'roboflow':
            lists = 'train: ../train/images\nval: ../valid/images\ntest: ../valid/images\n'
            save(src / 'data.yaml', f'{lists}nc: 2\nnames: [dog, cat]\n')
        elif layout == 'images/train':
            save(
                src / 'pets.yaml',
                'path: /not/here\ntrain: D:\\pets\\images\\train\nval: images/val\nnames: {0: dog, 1: cat}\n',
            )
        else:
            save(src / 'classes.txt', 'dog\ncat\n')
    splits = convert(src)
    assert [*splits] == ['train', 'val'] and names(splits['train']) == ['dog', 'cat']
    for split, name in (('train', 'a.JPG'), ('val', 'b.JPG')):
        cat, dog = annotations(splits[split], name)
        assert (cat['name'], dog['name']) == ('cat', 'dog') and 'segmentation' not in cat
        np.testing.assert_allclose(cat['bbox'], BOX, atol=1e-9)
        np.testing.assert_allclose(cat['area'], 300, atol=1e-9)
        np.testing.assert_allclose(dog['bbox'], (0, 0, 8, 4), atol=1e-9)
    assert annotations(splits['train'], 'n.JPG') == []  # an image without labels stays, as a negative
    assert {a['id'] for split in splits.values() for a in split.dataset['annotations']} == {1, 2, 3, 4}


def test_yolos_polygons_stay_exactly_as_they_are(tmp_path):
    src = tmp_path / 'src'
    draw(src / 'images/train/a.png')
    draw(src / 'images/val/b.png')
    save(src / 'classes.txt', 'cat\n')
    turned = [20.0, 5.0, 30.0, 15.0, 20.0, 25.0, 10.0, 15.0]  # a turned box has four corners
    for path in ('train/a', 'val/b'):
        save(src / f'labels/{path}.txt', f'0 {yolo_polygon(POLYGON)}\n0 {yolo_polygon(turned)}\n')
    triangle, diamond = annotations(convert(src)['train'], 'a.png')
    for found, points in ((triangle, POLYGON), (diamond, turned)):
        (polygon,) = found['segmentation']
        np.testing.assert_allclose(polygon, points, rtol=1e-15)
    assert diamond['bbox'] == [10, 5, 20, 20] and abs(diamond['area'] - 200) < 1e-9  # half of 20 * 20
    np.testing.assert_allclose(triangle['bbox'], (30.25, 10.5, 20.5, 22.5), rtol=1e-14)


@pytest.mark.parametrize('start', [1, 0])
def test_vocs_boxes_count_from_1_and_from_0_if_one_shows_it(start, tmp_path):
    src, (x, y, w, h) = tmp_path / 'src', BOX
    corner = ('corner', (1, 1, 4, 4)) if start else ('corner', (0, 0, 4, 4))
    box = (x + start, y + start, x + w, y + h)
    for name in 'abc':
        draw(src / f'JPEGImages/{name}.jpg')
        difficult = voc_object('hard', box, '<difficult>1</difficult>')
        voc_file(src / f'Annotations/{name}.xml', voc_object('pet', box) + difficult + voc_object(*corner))
    save(src / 'ImageSets/Main/train.txt', 'a\n')
    save(src / 'ImageSets/Main/val.txt', 'b\n')
    save(src / 'ImageSets/Main/trainval.txt', 'a\nb\n')
    save(src / 'ImageSets/Main/pet_train.txt', 'a  1\nb -1\n')
    splits = convert(src)
    assert names(splits['train']) == ['corner', 'hard', 'pet']
    assert [len(splits[name].dataset['images']) for name in ('train', 'val')] == [1, 1]  # c is in no list
    pet, hard, edge = annotations(splits['train'], 'a.jpg')
    assert pet['bbox'] == list(BOX) and pet['area'] == 300 and pet['iscrowd'] == 0
    assert hard['bbox'] == list(BOX) and hard['iscrowd'] == 1
    assert edge['bbox'] == [0, 0, 4, 4]


def test_vocs_object_masks_are_the_pixels_of_each_object(tmp_path):
    src = tmp_path / 'src'
    first, second = rectangle(3, 4, 13, 20), rectangle(30, 10, 50, 30)
    second[15:18, 35:40] = False
    labels = np.where(first, 1, np.where(second, 2, 0)).astype(np.uint8)
    labels[5, 5] = 255  # the border belongs to no object
    for name in 'ab':
        draw(src / f'JPEGImages/{name}.jpg')
        boxes = voc_object('cat', (4, 5, 13, 20)) + voc_object('dog', (31, 11, 50, 30))
        voc_file(src / f'Annotations/{name}.xml', boxes, '<size><width>0</width><height>0</height></size>')
        image = Image.fromarray(labels)
        image.putpalette(np.random.default_rng(0).permutation(768).astype(np.uint8).tolist())
        (src / 'SegmentationObject').mkdir(exist_ok=True)
        image.save(src / f'SegmentationObject/{name}.png')
    coco = convert(src, val_fraction=0.5)['train']
    for annotation, mask in zip(coco.dataset['annotations'], (first & (labels != 255), second), strict=True):
        assert (coco.annToMask(annotation) == mask).all() and annotation['area'] == mask.sum()
    labels[labels == 2] = 3
    Image.fromarray(labels).save(src / 'SegmentationObject/a.png')
    with pytest.raises(UserError, match=r'a\.png has the objects \[1, 3\], and the XML file has 2 objects'):
        READERS['voc'](Folder(src))


def test_labelmes_polygons_circles_masks_and_groups_are_read(tmp_path):
    src = tmp_path / 'src'
    ring = rectangle(0, 0, 6, 5)[:5, :6] & ~rectangle(2, 2, 4, 3)[:5, :6]
    shapes = [
        labelme_shape('polygon', pairs(POLYGON)),
        labelme_shape('circle', [[30, 20], [36, 28]], 'ball'),  # radius 10
        labelme_shape('mask', [[7.0, 9.0], [12.0, 13.0]], 'ring', mask=base64.b64encode(png(ring)).decode()),
        labelme_shape(None, pairs([0, 0, 10, 0, 10, 10, 0, 10]), 'parts', group_id=3),
        labelme_shape('polygon', pairs([20, 20, 30, 20, 30, 30, 20, 30]), 'parts', group_id=3),
        labelme_shape('polygon', pairs([0, 0, 10, 0, 10, 10, 0, 10]), 'parts', group_id=4),
        labelme_shape('point', [[3, 3]]),
    ]
    content = io.BytesIO()
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(content, 'PNG')
    inside = base64.b64encode(content.getvalue()).decode()
    draw(src / 'a.png')
    labelme_file(src / 'labels/a.json', shapes, imagePath='..\\a.png')
    labelme_file(src / 'b.json', shapes, imageData=inside)
    splits = convert(src, val_fraction=0.5)
    assert sum(len(s.dataset['images']) for s in splits.values()) == 2
    for split in splits.values():
        assert names(split) == ['ball', 'parts', 'pet', 'ring']
        (image,) = split.dataset['images']
        root = (
            tmp_path
            if any('images/b.png' in i['file_name'] for s in splits.values() for i in s.dataset['images'])
            else src
        )
        assert (root / image['file_name']).is_file()
        pet, ball, hoop, both, single = annotations(split, Path(image['file_name']).name)
        assert pet['segmentation'] == [POLYGON] and pet['bbox'] == [30.25, 10.5, 20.5, 22.5]
        np.testing.assert_allclose(ball['bbox'], [20, 10, 20, 20], atol=1e-9)
        np.testing.assert_allclose(ball['area'], np.pi * 100, rtol=0.02)
        expected = np.zeros((HEIGHT, WIDTH), bool)
        expected[9:14, 7:13] = ring
        assert (split.annToMask(hoop) == expected).all() and hoop['area'] == 5 * 6 - 2 and hoop['bbox'] == [7, 9, 6, 5]
        assert both['segmentation'] == [[0, 0, 10, 0, 10, 10, 0, 10], [20, 20, 30, 20, 30, 30, 20, 30]]
        assert both['bbox'] == [0, 0, 30, 30] and both['area'] == 200 and single['area'] == 100


def test_cvats_boxes_polygons_ellipses_and_masks_are_read(tmp_path):
    src = tmp_path / 'src'
    mask = rectangle(0, 0, 4, 3)[:3, :4] & ~rectangle(1, 1, 2, 2)[:3, :4]  # 4 wide, 3 high: pixels 5 is a hole
    shapes = (
        '<box label="cat" xtl="10.0" ytl="5.0" xbr="30.0" ybr="20.0"/>'
        '<box label="cat" xtl="20" ytl="10" xbr="40" ybr="20" rotation="90.0"/>'
        '<polygon label="dog" points="30.25,10.50;50.75,12.125;41.5,33.0"/>'
        '<ellipse label="dog" cx="30" cy="20" rx="10" ry="5" rotation="90"/>'
        '<mask label="dog" rle="0, 5, 1, 6" left="50" top="30" width="4" height="3"/>'
        '<points label="dog" points="1,1"/><tag label="dog"/>'
    )
    images = ''
    for number, subset in enumerate(('Train', 'Validation')):
        draw(src / f'images/{subset}/a.png')
        images += (
            f'<image id="{number}" name="a.png" subset="{subset}" width="{WIDTH}" height="{HEIGHT}">{shapes}</image>'
        )
    cvat_file(src / 'annotations.xml', images)
    splits = convert(src, mixed='rectangles')
    assert [*splits] == ['train', 'val'] and names(splits['val']) == ['dog', 'cat']  # the order of the task
    box, turned, polygon, ellipse, hole = annotations(splits['val'], 'a.png')
    assert box['bbox'] == list(BOX) and box['segmentation'] == [[10, 5, 30, 5, 30, 20, 10, 20]] and box['name'] == 'cat'
    np.testing.assert_allclose(turned['bbox'], [25, 5, 10, 20], atol=1e-9)
    # the top left corner turns clockwise to the top right one
    np.testing.assert_allclose(turned['segmentation'], [[35, 5, 35, 25, 25, 25, 25, 5]], atol=1e-9)
    assert polygon['segmentation'] == [POLYGON] and polygon['name'] == 'dog'
    np.testing.assert_allclose(ellipse['bbox'], [25, 10, 10, 20], atol=1e-9)
    np.testing.assert_allclose(ellipse['area'], np.pi * 50, rtol=0.04)
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[30:33, 50:54] = mask
    assert (splits['val'].annToMask(hole) == expected).all() and hole['area'] == 11


def test_superviselys_rectangles_polygons_with_holes_and_bitmaps_are_read(tmp_path):
    src, (outer, inner) = tmp_path / 'src', HOLED

    def corners(left: int, top: int, right: int, bottom: int) -> list:
        return [[left, top], [right, top], [right, bottom], [left, bottom]]

    bitmap = rectangle(0, 0, 5, 4)[:4, :5] & ~rectangle(1, 1, 3, 2)[:4, :5]
    alpha = Image.fromarray(np.dstack([np.full((4, 5, 3), 255, np.uint8), bitmap.astype(np.uint8) * 255]))
    file = io.BytesIO()
    alpha.save(file, 'PNG')
    objects = [
        supervisely_object('polygon', points=dict(exterior=corners(*outer), interior=[corners(*inner)])),
        supervisely_object('polygon', 'dog', points=dict(exterior=pairs(POLYGON), interior=[])),
        *(
            supervisely_object(
                'bitmap', bitmap=dict(origin=[8, 6], data=base64.b64encode(zlib.compress(data)).decode())
            )
            for data in (png(bitmap), file.getvalue())
        ),
    ]
    rectangle_ = supervisely_object('rectangle', points=dict(exterior=[[30, 20], [10, 5]], interior=[]))
    save(src / 'meta.json', dict(classes=[dict(title='dog', shape='any'), dict(title='cat', shape='any')], tags=[]))
    for split, entries in (('train', objects), ('val', [rectangle_])):
        draw(src / split / 'img/a.png')
        size = dict(height=HEIGHT, width=WIDTH)
        save(src / split / 'ann/a.png.json', dict(description='', tags=[], size=size, objects=entries))
    splits = convert(src, mixed='rectangles')
    assert names(splits['train']) == ['dog', 'cat']
    holed, polygon, grey, clear = annotations(splits['train'], 'a.png')
    assert (splits['train'].annToMask(holed) == (rectangle(*outer) & ~rectangle(*inner))).all()
    assert holed['area'] == 400 - 72 and holed['bbox'] == [4, 4, 20, 20]
    assert polygon['segmentation'] == [POLYGON] and polygon['name'] == 'dog'
    expected = np.zeros((HEIGHT, WIDTH), bool)
    expected[6:10, 8:13] = bitmap
    for found in (grey, clear):
        assert (splits['train'].annToMask(found) == expected).all() and found['area'] == 18
    assert annotations(splits['val'], 'a.png')[0]['bbox'] == list(BOX)


def test_roboflows_coco_loses_only_the_class_that_groups_others(tmp_path):
    src = tmp_path / 'src'
    box = dict(id=0, image_id=7, category_id=2, bbox=list(BOX), area=1, segmentation=[POLYGON], iscrowd=0)
    runs = dict(size=[HEIGHT, WIDTH], counts=[0, HEIGHT * 2, HEIGHT * (WIDTH - 2)])  # the two columns on the left
    for split in ('train', 'valid', 'test'):
        draw(src / split / 'a.png')
        crowd = dict(id=1, image_id=7, category_id=1, bbox=[0, 0, 2, HEIGHT], segmentation=runs, iscrowd=1)
        save(src / split / '_annotations.coco.json', coco_content(box, crowd))
    splits = convert(src)
    assert [*splits] == ['test', 'train', 'val'] and names(splits['test']) == ['cat', 'dog']
    dog, cat = annotations(splits['val'], 'a.png')
    assert dog['name'] == 'dog' and dog['bbox'] == list(BOX) and dog['segmentation'] == [POLYGON]
    assert cat['iscrowd'] == 1 and (splits['val'].annToMask(cat) == rectangle(0, 0, 2, HEIGHT)).all()
