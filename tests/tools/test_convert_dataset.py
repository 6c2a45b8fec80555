"""tools/convert_dataset.py writes data and configs that pass check_dataset.py, and label maps of class indices."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from backbones import UserError
from mmseg_plugin.data.convert_masks import write_label_maps
from mmseg_plugin.data.mask_export import convert_export
from tests.conftest import ROOT
from tests.mmdet_plugin.formats.label_files import (
    BOX,
    POLYGON,
    draw,
    labelme_file,
    labelme_shape,
    pairs,
    save,
    yolo_box,
)
from tools import convert_dataset
from tools.check_dataset import find_problems

COLORS = dict(ground=(0, 0, 0), road=(128, 64, 128), car=(64, 0, 128))


def run(monkeypatch, folder: Path, *words: object) -> None:
    """Run the program in a folder, in this process."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, 'argv', ['convert_dataset.py', *map(str, words)])
    convert_dataset.main()


def write_yolo(src: Path) -> None:
    """Three images in YOLO's format, one of them without labels."""
    for split, name in (('train', 'a'), ('train', 'negative'), ('val', 'b')):
        draw(src / f'images/{split}/{name}.jpg')
        if name != 'negative':
            save(src / f'labels/{split}/{name}.txt', f'1 {yolo_box(*BOX)}\n')
    save(src / 'classes.txt', "dog\nman's cat\n")


def write_masks(folder: Path, kind: str = 'RGB') -> np.ndarray:
    """A coloured mask; returns the index of each pixel's class."""
    indices = np.random.default_rng(0).integers(0, 3, (8, 10))
    folder.mkdir(parents=True)
    if kind == 'P':  # the palette has another order than the classes
        order = np.array([2, 0, 1])
        image = Image.fromarray(order[indices].astype(np.uint8))
        image.putpalette([value for index in np.argsort(order) for value in [*COLORS.values()][index]])
    else:
        image = Image.fromarray(np.array([*COLORS.values()], np.uint8)[indices]).convert(kind)
    image.save(folder / 'a.png')
    return indices


@pytest.mark.parametrize('masks', [False, True])
def test_the_result_and_its_config_pass_the_check(masks, tmp_path, monkeypatch, capsys):
    if masks:
        for name in 'abcde':
            draw(tmp_path / f'src/{name}.png')
            labelme_file(tmp_path / f'src/{name}.json', [labelme_shape('polygon', pairs(POLYGON))])
    else:
        write_yolo(tmp_path / 'src')
    (tmp_path / 'data').mkdir()
    run(monkeypatch, tmp_path, 'auto', 'src', 'data/pets')
    said = capsys.readouterr().out
    config = tmp_path / 'data/pets/pets.py'
    assert config.read_text() in said and f'src has the format {"labelme" if masks else "yolo"}' in said
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    assert find_problems(cfg) == []
    assert bool(cfg.model.roi_head.get('mask_head')) == masks
    assert cfg.train_dataloader.dataset.metainfo.classes == (('pet',) if masks else ('dog', "man's cat"))
    assert cfg.model.roi_head.bbox_head.num_classes == (1 if masks else 2)
    if not masks:  # the check can fail, too
        (tmp_path / 'src/images/train/a.jpg').unlink()
        assert [Path(problem.file).name for problem in find_problems(cfg)] == ['a.jpg']


@pytest.mark.parametrize(
    'name', ['{{ fileDirname }}', '{{$HOME:x}}', '{{$A:|(((\\\'+str(open("made", "w")),)))#}}', "man's {{{cat"]
)
def test_a_class_name_stays_a_name_in_the_config(name, tmp_path, monkeypatch):
    write_yolo(tmp_path / 'src')
    save(tmp_path / 'src/classes.txt', f'dog\n{name}\n')
    run(monkeypatch, tmp_path, 'yolo', 'src', 'out')
    assert Config.fromfile('out/out.py').train_dataloader.dataset.metainfo.classes == ('dog', name)
    assert not (tmp_path / 'made').exists()


def test_a_test_split_has_its_own_scores(tmp_path, monkeypatch):
    write_yolo(tmp_path / 'src')
    draw(tmp_path / 'src/images/test/c.jpg')
    save(tmp_path / 'src/labels/test/c.txt', f'0 {yolo_box(*BOX)}\n')
    run(monkeypatch, tmp_path, 'yolo', 'src', 'out')
    cfg = Config.fromfile('out/out.py')
    assert cfg.test_evaluator.ann_file == 'out/annotations/test.json' and cfg.val_evaluator.ann_file.endswith(
        'val.json'
    )
    assert cfg.test_dataloader.dataset.ann_file == 'annotations/test.json'


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['auto', 'nowhere', 'out'], 'nowhere is not a folder'),
        (['masks', 'src', 'out'], '--colors class0:0,0,0 class1:64,0,128 class2:128'),
        (['auto', 'src', 'out'], 'src has no labels of a known format.*or masks and the folder of coloured masks'),
        (['voc', 'src', 'out'], 'src has no labels of the format voc'),
        (['auto', 'yolo/labels', 'out'], 'yolo/labels has only a part of a data set: name the folder above it'),
    ],
)
def test_a_mistake_on_the_command_line_is_answered_in_one_message(words, message, tmp_path, monkeypatch):
    write_masks(tmp_path / 'src')
    write_yolo(tmp_path / 'yolo')
    with pytest.raises(UserError, match=message):
        run(monkeypatch, tmp_path, *words)
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('kind', ['RGB', 'RGBA', 'P'])
def test_coloured_masks_become_the_indices_of_their_classes(kind, tmp_path):
    indices = write_masks(tmp_path / 'src/train', kind)
    assert write_label_maps(tmp_path / 'src', tmp_path, COLORS) == (['train/a'], ['ground', 'road', 'car'])
    with Image.open(tmp_path / 'train/a.png') as image:
        assert image.mode == 'L' and (np.asarray(image) == indices).all()


def test_numpy_files_of_indices_become_label_maps(tmp_path):
    (tmp_path / 'src').mkdir()
    indices = np.array([[0, 1, 255], [3, 3, 0]])
    np.save(tmp_path / 'src/a.npy', indices)
    names, classes = write_label_maps(tmp_path / 'src', tmp_path, {})
    assert names == ['a'] and classes == ['class0', 'class1', 'class2', 'class3']
    assert (np.asarray(Image.open(tmp_path / 'a.png')) == indices).all()
    np.save(tmp_path / 'src/b.npy', indices / 255)
    with pytest.raises(UserError, match=r'b\.npy has the shape \(2, 3\) and the type float64'):
        write_label_maps(tmp_path / 'src', tmp_path, {})


def test_vocs_border_is_ignored_and_another_colour_is_refused_with_its_file(tmp_path):
    write_masks(tmp_path / 'src')
    pixels = np.asarray(Image.open(tmp_path / 'src/a.png')).copy()
    pixels[0, 0] = (224, 224, 192)
    Image.fromarray(pixels).save(tmp_path / 'src/a.png')
    write_label_maps(tmp_path / 'src', tmp_path, COLORS)
    assert np.asarray(Image.open(tmp_path / 'a.png'))[0, 0] == 255
    pixels[0, 1] = (1, 2, 3)
    Image.fromarray(pixels).save(tmp_path / 'src/a.png')
    with pytest.raises(UserError, match=r'a\.png: 1 pixels have the colour \(1, 2, 3\)'):
        convert_export(tmp_path / 'src', tmp_path / 'out', COLORS, 0.5, 0)
    assert not (tmp_path / 'out').exists()


def test_masks_without_clear_colours_are_refused(tmp_path):
    write_masks(tmp_path / 'src')
    Image.open(tmp_path / 'src/a.png').save(tmp_path / 'src/b.jpg')
    with pytest.raises(UserError, match=r'b\.jpg is a JPEG, which blends the colours'):
        write_label_maps(tmp_path / 'src', tmp_path, COLORS)
    (tmp_path / 'src/b.jpg').unlink()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / 'src/a.png')
    with pytest.raises(UserError, match='have more than 20 colours'):
        write_label_maps(tmp_path / 'src', tmp_path, {})


def write_export(root: Path, lists: bool) -> None:
    """Four coloured masks and their images, as CVAT exports them in the layout of Pascal VOC."""
    for number, name in enumerate('abcd'):
        write_masks(root / 'SegmentationClass' / name)
        (root / 'SegmentationClass' / name / 'a.png').rename(root / f'SegmentationClass/{name}.png')
        (root / 'SegmentationClass' / name).rmdir()
        draw(root / f'JPEGImages/{name}.{"jpg" if number % 2 else "png"}', 8, 10)
    lines = ['# label:color_rgb:parts:actions', *(f'{n}:{r},{g},{b}::' for n, (r, g, b) in COLORS.items())]
    save(root / 'labelmap.txt', '\n'.join(lines))
    if lists:
        save(root / 'ImageSets/Segmentation/train.txt', 'a\nc\nd\n')
        save(root / 'ImageSets/Segmentation/val.txt', 'b\n')


@pytest.mark.parametrize('lists', [False, True])
def test_an_export_of_coloured_masks_and_its_config_pass_the_check(lists, tmp_path, monkeypatch, capsys):
    write_export(tmp_path / 'src', lists)
    (tmp_path / 'data').mkdir()
    run(monkeypatch, tmp_path, 'auto', 'src', 'data/roads')
    said = capsys.readouterr().out
    config = tmp_path / 'data/roads/roads.py'
    assert config.read_text() in said and 'src has the format masks' in said
    cfg = Config.fromfile(config)
    init_default_scope(cfg.default_scope)
    assert find_problems(cfg) == []
    assert cfg.train_dataloader.dataset.metainfo.classes == tuple(COLORS)
    train, val = (set(Path(cfg[f'{s}_dataloader'].dataset.ann_file).read_text().split()) for s in ('train', 'val'))
    assert train | val == set('abcd') and not train & val
    if lists:
        assert val == {'b'}
    (tmp_path / 'src/JPEGImages').rename(tmp_path / 'src/elsewhere')  # the check can fail, too
    assert find_problems(cfg)


def test_a_config_says_where_the_images_must_be_named(tmp_path, monkeypatch, capsys):
    write_export(tmp_path / 'src', lists=False)
    next((tmp_path / 'src/JPEGImages').iterdir()).unlink()
    run(monkeypatch, tmp_path, 'masks', 'src/SegmentationClass', 'out')
    assert 'write theirs for IMAGES in the config' in capsys.readouterr().out
    assert "img_path='IMAGES'" in (tmp_path / 'out/out.py').read_text()


def test_the_pages_commands_run_as_they_are_typed(tmp_path, tool, monkeypatch):
    write_yolo(tmp_path / 'data/pets_yolo')
    write_export(tmp_path / 'data/roads', lists=False)
    page = (ROOT / 'docs/converting.md').read_text()
    commands = re.findall(r'^python tools/(\S+) (.*)$', page, re.M)
    (first, objects), (second, config), (third, masks) = commands
    assert (first, second, third) == ('convert_dataset.py', 'check_dataset.py', 'convert_dataset.py')
    done = tool(first, *objects.split(), cwd=tmp_path)
    assert done.returncode == 0 and f'next: python tools/{second} {config}' in done.stdout, done.stdout[-2000:]
    assert (tmp_path / config).is_file()
    run(monkeypatch, tmp_path, *masks.split())
    assert len(list(Path('data/roads_masks').glob('?.png'))) == 4 and Path('data/roads_masks/roads_masks.py').is_file()
    with pytest.raises(UserError, match='data/pets is there already'):
        run(monkeypatch, tmp_path, *objects.split())
