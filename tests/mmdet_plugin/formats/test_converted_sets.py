"""What holds for a converted data set of any format: its splits, its masks, and where it is written."""

import pytest

from backbones import UserError
from mmdet_plugin.formats import READERS, Folder
from mmdet_plugin.formats.output import write
from tests.mmdet_plugin.formats.label_files import (
    BOX,
    POLYGON,
    convert,
    draw,
    labelme_file,
    labelme_shape,
    pairs,
    save,
    yolo_box,
)


def test_a_split_is_made_by_name_and_seed_and_each_image_is_in_one(tmp_path):
    src = tmp_path / 'src'
    for number in range(10):
        draw(src / f'{number}.png')
        save(src / f'{number}.txt', f'0 {yolo_box(*BOX)}\n')
    save(src / 'classes.txt', 'cat\n')
    chosen = []
    for seed in (0, 0, 1):
        splits = convert(src, val_fraction=0.3, seed=seed)
        found = {name: {i['file_name'] for i in coco.dataset['images']} for name, coco in splits.items()}
        assert len(found['val']) == 3 and len(found['train'] | found['val']) == 10
        chosen.append(found['val'])
        out = src.parent / 'src_out'
        out.rename(src.parent / f'out{len(chosen)}')
    assert chosen[0] == chosen[1] != chosen[2]


def test_a_polygon_is_cut_off_at_the_border_and_a_box_too(tmp_path):
    src = tmp_path / 'src'
    cut = labelme_shape('polygon', pairs([-10, 10, 10, 10, 10, 20, -10, 20]))
    draw(src / 'a.png')
    draw(src / 'b.png')
    labelme_file(src / 'a.json', [cut])
    labelme_file(src / 'b.json', [labelme_shape('polygon', pairs([50, 30, 70, 30, 70, 50, 50, 50]))])
    found = [a for coco in convert(src, val_fraction=0.5).values() for a in coco.dataset['annotations']]
    assert sorted(a['bbox'] for a in found) == [[0, 10, 10, 10], [50, 30, 10, 10]]
    assert [a['area'] for a in found] == [100, 100]


def test_objects_without_area_are_left_out_and_told(tmp_path):
    src = tmp_path / 'src'
    draw(src / 'images/train/a.png')
    draw(src / 'images/val/b.png')
    save(src / 'classes.txt', 'cat\n')
    save(src / 'labels/train/a.txt', f'0 {yolo_box(*BOX)}\n0 0.5 0.5 0 0\n')
    save(src / 'labels/val/b.txt', f'0 {yolo_box(*BOX)}\n')
    folder = Folder(src)
    dataset, *_ = write(READERS['yolo'](folder), src, tmp_path / 'out', None, 0.2, 0)
    assert [len(image.objects) for image in dataset.images] == [1, 1]
    assert any('objects without area, which are left out: 1' in note and 'a.png' in note for note in dataset.notes)


BOMB = '<!DOCTYPE a [<!ENTITY x "boom"><!ENTITY y "&x;&x;&x;">]>\n<annotation><filename>&y;</filename></annotation>'


def test_boxes_among_masks_need_a_decision(tmp_path):
    src = tmp_path / 'src'
    shapes = [labelme_shape('rectangle', [[30, 20], [10, 5]]), labelme_shape('polygon', pairs(POLYGON))]
    for name in 'ab':
        draw(src / f'{name}.png')
        labelme_file(src / f'{name}.json', shapes)
    with pytest.raises(UserError, match='2 of 4 objects have only a box.*--mixed boxes.*--mixed rectangles'):
        convert(src)
    boxes = [a for c in convert(src, mixed='boxes').values() for a in c.dataset['annotations']]
    assert len(boxes) == 4 and not any('segmentation' in a for a in boxes)
    assert [a['bbox'] for a in boxes[:2]] == [list(BOX), [30.25, 10.5, 20.5, 22.5]]


def test_nothing_is_written_into_the_source_or_over_another_folder(tmp_path):
    src = tmp_path / 'src'
    for name in 'ab':
        draw(src / f'{name}.png')
        labelme_file(src / f'{name}.json', [labelme_shape('rectangle', [[1, 1], [9, 9]])])
    before = {path: path.read_bytes() for path in src.iterdir()}
    dataset = READERS['labelme'](Folder(src))
    with pytest.raises(UserError, match='is inside'):
        write(dataset, src, src / 'out', None, 0.5, 0)
    write(dataset, src, tmp_path / 'out', None, 0.5, 0)
    with pytest.raises(UserError, match='is there already, and nothing is overwritten'):
        write(dataset, src, tmp_path / 'out', None, 0.5, 0)
    assert {path: path.read_bytes() for path in src.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ['out', 'src']
