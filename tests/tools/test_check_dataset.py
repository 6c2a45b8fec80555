"""tools/check_dataset.py finds every planted problem with its file, all that training refuses, and nothing else."""

import json
import math
import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from pycocotools import mask as rle

from mmengine_plugin.inference.drawing import draw_samples
from tests.conftest import DETECTION, ROOT, SEGMENTATION, link
from tools.check_dataset import find_problems

TRAIN = 'data/mini/coco/annotations/instances_train2017.json'


def problems_of(config: Path, root: Path, monkeypatch, **options) -> list:
    """The problems that the program finds when it is started in ``root``."""
    monkeypatch.chdir(root)
    cfg = Config.fromfile(config)
    cfg.merge_from_dict(options)
    init_default_scope(cfg.default_scope)
    return find_problems(cfg)


def named(problems: list) -> set[tuple[str, str]]:
    """The kind of each problem and the name of its file."""
    return {(problem.kind, Path(problem.file).name) for problem in problems}


@pytest.fixture
def data(mini_data, tmp_path) -> Path:
    """A copy of the mini data, to be damaged."""
    shutil.copytree(mini_data / 'data', tmp_path / 'data')
    return tmp_path


@pytest.mark.parametrize('config', [DETECTION, SEGMENTATION])
def test_clean_data_have_no_problem(mini_data, monkeypatch, config):
    assert problems_of(config, mini_data, monkeypatch) == []


@pytest.mark.parametrize(
    ('config', 'place', 'name'),
    [
        ('mask_rcnn_mambaout_tiny', 'coco', 'coco'),
        ('upernet_mambaout_tiny', 'ade/ADEChallengeData2016', 'ADEChallengeData2016'),
    ],
)
def test_real_data_have_no_problem(tmp_path, monkeypatch, config, place, name):
    link(tmp_path, place, name)
    assert problems_of(ROOT / f'configs/{config}.py', tmp_path, monkeypatch) == []


def damage_images(folder: Path, names: list[str]) -> set[tuple[str, str]]:
    """Damage eight images, each in another way; return the kinds and files of the problems."""
    missing, empty, cut, page, dark, turned, small, cmyk = (folder / name for name in names)
    missing.unlink()
    empty.write_bytes(b'')
    cut.write_bytes(cut.read_bytes()[:2000])
    page.write_text('<!DOCTYPE html><html>404</html>')
    twelve_bits = cv2.imread(str(dark)).astype(np.uint16) * 16
    dark.write_bytes(cv2.imencode('.png', twelve_bits)[1].tobytes())
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.open(turned).save(turned, exif=exif)
    Image.open(small).resize((64, 48)).save(small)
    Image.open(cmyk).convert('CMYK').save(cmyk)
    return {
        ('missing file', missing.name),
        ('empty file', empty.name),
        ('damaged image', cut.name),
        ('no image that training can read', page.name),
        ('image of 16 bits a channel', dark.name),
        ('image that EXIF turns away from its labels', turned.name),
        ('image of another size than its labels', small.name),
        ('CMYK image', cmyk.name),
    }


@pytest.mark.parametrize(
    ('config', 'folder'), [(DETECTION, 'coco/train2017'), (SEGMENTATION, 'ade20k/images/training')]
)
def test_every_damaged_image_is_found(data, monkeypatch, config, folder):
    folder = data / 'data/mini' / folder
    planted = damage_images(folder, sorted(path.name for path in folder.iterdir()))
    if config == SEGMENTATION:  # its images are all that the folder holds
        planted = planted - {('missing file', 'ADE_train_00000001.jpg')}
        planted |= {('label map without an image', 'ADE_train_00000001.png')}
    problems = problems_of(config, data, monkeypatch)
    assert named(problems) == planted
    assert len(problems) == len(planted) and all(problem.detail and problem.fix for problem in problems)
    assert any("it begins with b'<!DOCTYPE html>" in problem.detail for problem in problems)


def test_an_image_that_exif_turns_like_its_labels_is_no_problem(data, monkeypatch):
    image = data / 'data/mini/coco/train2017/000000000001.jpg'
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(image).rotate(90, expand=True).save(image, exif=exif)
    assert problems_of(DETECTION, data, monkeypatch) == []


def plant_in_annotations(content: dict) -> Counter:
    """Give each of many copies of a sound annotation one problem; return how often each kind is planted."""
    images = {image['id']: image for image in content['images']}
    sound = next(a for a in content['annotations'] if not a['iscrowd'])
    image = images[sound['image_id']]
    width, height = image['width'], image['height']
    string = rle.encode(np.asfortranarray(np.ones((height, width), np.uint8)))['counts'].decode()
    polygons, (x, y, w, h) = sound['segmentation'], sound['bbox']
    sound = sound | dict(segmentation=dict(size=[height, width], counts=string), area=height * width)
    problems = [
        ('annotation of an unknown image', dict(image_id=10**6)),
        ('annotation of an unknown category', dict(category_id=999)),
        ('box that is not four numbers', dict(bbox=[1, 2, 3])),
        ('box that is not four numbers', dict(bbox=[1, 2, math.nan, 4])),
        ('box that is not four numbers', dict(bbox='1 2 3 4')),
        ('empty box', dict(bbox=[5, 5, 0, 10])),
        ('empty box', dict(bbox=[5, 5, 10, -4])),
        ('box in fractions of the image size', dict(bbox=[0.2, 0.3, 0.5, 0.4])),
        ('box outside its image', dict(bbox=[5, 5, width, 10])),
        ('box outside its image', dict(bbox=[-3, 5, 10, 10])),
        ('object without area', dict(area=0)),
        ('object without a mask', dict(segmentation=[])),
        ('object with an unusable mask', dict(segmentation=[[1, 1, 9, 9]])),
        ('object with an unusable mask', dict(segmentation=[[1, 1, 9, 9, 1, 9, 5]])),
        ('object with an unusable mask', dict(segmentation=[1, 1, 9, 9, 1, 9])),
        ('object with an unusable mask', dict(segmentation=[[]])),
        ('object with an unusable mask', dict(segmentation=dict(counts=string))),
        ('crowd with polygons', dict(iscrowd=1, segmentation=polygons, bbox=[x, y, w, h + 0.1])),
        ('invalid polygon', dict(segmentation=[*polygons, [1, 1, 9, 9]])),
        ('polygons that do not fit their box', dict(segmentation=[[0.1, 0.1, 0.6, 0.1, 0.6, 0.5]])),
        ('entry of the wrong type', dict(image_id=[1])),
        ('entry of the wrong type', dict(category_id=dict())),
        ('entry of the wrong type', dict(iscrowd='0')),
        ('invalid run-length mask', dict(segmentation=dict(size=[height, width], counts=string[:-1]))),
        ('invalid run-length mask', dict(segmentation=dict(size=[height, width], counts=string + '2'))),
        ('invalid run-length mask', dict(segmentation=dict(size=[width, height], counts=string))),
        ('invalid run-length mask', dict(segmentation=dict(size=[height, width], counts=[10, 20]))),
        ('invalid run-length mask', dict(segmentation=dict(size=[height, width], counts=[-1, height * width + 1]))),
        ('incomplete entry', dict(category_id=None)),
    ]
    harmless = [
        dict(bbox=[-1.5, 0, width + 3, height]),  # within the tolerance on both sides
        dict(segmentation=dict(size=[height, width], counts=string)),
        dict(segmentation=dict(size=[height, width], counts=[10, height * width - 10])),
        dict(iscrowd=1, segmentation=dict(size=[height, width], counts=string)),
        dict(area=None),
        dict(iscrowd=None),
        dict(bbox=None, area=None),
    ]
    for number, change in enumerate([*(change for _, change in problems), *harmless]):
        box = [0, 0, width, height - 0.01 * (number + 1)]  # no two are the same
        content['annotations'].append(sound | dict(id=10**6 + number, bbox=box) | change)
    return Counter(kind for kind, _ in problems)


def test_every_problem_of_annotations_is_found_and_rounding_is_none(data, monkeypatch):
    file = data / TRAIN
    content = json.loads(file.read_text())
    planted = plant_in_annotations(content)
    content['images'].append(content['images'][1] | dict(license=9))
    content['images'].append(dict(id=77, file_name='000000000001.jpg', height=None, width=10))
    content['images'].append(dict(id=None, file_name='000000000002.jpg', height=10, width=10))
    content['annotations'] += [content['annotations'][0], 5]
    file.write_text(json.dumps(content))
    problems = problems_of(DETECTION, data, monkeypatch)
    planted += Counter({'duplicate id': 1, 'incomplete entry': 1, 'file name of several images': 1})
    planted['entry of the wrong type'] += 1
    assert Counter(problem.kind for problem in problems) == planted
    assert {problem.file for problem in problems} == {TRAIN}
    assert any(
        'annotation 1000005 of 000000000001.jpg: bbox is [5, 5, 0, 10]' in problem.detail for problem in problems
    )


@pytest.mark.parametrize(
    ('classes', 'details'),
    [
        (
            ('stopsign', 'kite', 'elephant'),
            ["it has no category 'stopsign' (did you mean 'stop sign'?)", "it has no category 'elephant'"],
        ),
        (('kite', 'stop sign'), []),  # the file has another order
        (('kite', 'kite'), ["metainfo.classes has 'kite' 2 times"]),
    ],
)
def test_every_class_name_that_does_not_fit_is_found(mini_data, monkeypatch, classes, details):
    problems = problems_of(DETECTION, mini_data, monkeypatch, **{'train_dataloader.dataset.metainfo.classes': classes})
    assert [problem.detail for problem in problems if problem.file == TRAIN] == details


def keep(**changes):
    """A change of the annotation file's content."""
    return lambda file: file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ('damage', 'kind'),
    [
        (Path.unlink, 'missing annotation file'),
        (lambda file: file.write_text(file.read_text()[:1000]), 'damaged annotation file'),
        (lambda file: file.write_bytes(b'\xff\xd8\xff'), 'damaged annotation file'),
        (lambda file: file.write_text('[]'), "annotation file that is not in COCO's format"),
        (lambda file: (file.unlink(), file.mkdir()), 'unreadable annotation file'),
        (keep(images=[]), 'nothing to train on'),
        (keep(categories=[dict(id=i, name='kite') for i in (1, 2)]), 'duplicate category name'),
        (keep(annotations=[]), 'nothing to train on'),
        (keep(categories=[dict(id=1, name='zebra')]), 'class that the file does not have'),
        (lambda file: shutil.rmtree(file.parents[1] / 'train2017'), 'missing image folder'),
        (lambda file: (file.parents[1] / 'train2017/000000000002.jpg').unlink(), 'missing file'),
    ],
)
def test_the_check_reports_what_training_refuses(data, monkeypatch, damage, kind):
    damage(data / TRAIN)
    assert kind in {problem.kind for problem in problems_of(DETECTION, data, monkeypatch)}
    with pytest.raises((AssertionError, OSError, TypeError, ValueError)):
        DATASETS.build(Config.fromfile(DETECTION).train_dataloader.dataset)


def test_every_damaged_label_map_is_found(data, monkeypatch):
    images, maps = data / 'data/mini/ade20k/images/training', data / 'data/mini/ade20k/annotations/training'
    missing, cut, small, coloured, deep, above, palette, _ = sorted(maps.iterdir())
    labels = np.array(Image.open(above))
    missing.unlink()
    cut.write_bytes(cut.read_bytes()[:100])
    Image.open(small).resize((64, 48), Image.Resampling.NEAREST).save(small)
    Image.open(coloured).convert('RGB').save(coloured)
    Image.fromarray(np.array(Image.open(deep), np.uint16) + 300).save(deep)
    labels[0], labels[1] = 151, 200
    Image.fromarray(labels).save(above)
    indices = Image.open(palette).convert('P')
    indices.putdata(Image.open(palette).getdata())
    indices.save(palette)  # in colours to look at, and sound
    Image.new('RGB', (64, 48)).save(images / 'photo.JPEG')
    problems = problems_of(SEGMENTATION, data, monkeypatch)
    assert named(problems) == {
        ('missing file', missing.name),
        ('damaged image', cut.name),
        ('image of another size than its labels', small.with_suffix('.jpg').name),
        ('coloured label map', coloured.name),
        ('label map of more than 8 bits', deep.name),
        ('label at or above the number of classes', above.name),
        ('image that img_suffix leaves out', 'photo.JPEG'),
    }


def folders(root: Path, *values: object, **settings) -> list:
    """The problems of a segmentation set with one label map for each tuple or array of values."""
    for number, pixels in enumerate(values):
        pixels = np.atleast_2d(np.asarray(pixels, np.uint8))
        for folder, content in (('images', np.dstack([pixels] * 3)), ('masks', pixels)):
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(content).save(root / folder / f'{number}.png')
    init_default_scope('mmseg')
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(root),
        data_prefix=dict(img_path='images', seg_map_path='masks'),
        img_suffix='.png',
        metainfo=dict(classes=('a', 'b', 'c')),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')],
    )
    return find_problems(Config(dict(default_scope='mmseg', train_dataloader=dict(dataset=dict(dataset, **settings)))))


@pytest.mark.parametrize(
    ('values', 'settings', 'kinds'),
    [
        ([(0, 1), (1, 2, 255)], dict(), set()),
        ([(0, 1), (2, 3)], dict(reduce_zero_label=True), set()),
        ([(1, 2), (3, 255)], dict(reduce_zero_label=True), set()),
        # classes b and c do not occur, which does not show a wrong numbering
        ([(0, 1), (1, 1)], dict(reduce_zero_label=True), {('class that no label map has', 'masks')}),
        (
            [(0, 1), (1, 2)],
            dict(reduce_zero_label=True),
            {('classes numbered from 0 with reduce_zero_label=True', 'masks')},
        ),
        (
            [(0, 1), (1, 3)],
            dict(),
            {
                ('classes numbered from 1 with reduce_zero_label=False', 'masks'),
                ('label at or above the number of classes', '1.png'),
            },
        ),
        ([(0, 255), (0, 0)], dict(), {('masks of 0 and 255', 'masks')}),
        ([(0, 255)], dict(reduce_zero_label=True), {('masks of 0 and 255', 'masks')}),
        (
            [(0, 1)],
            dict(img_suffix='.jpg'),
            {
                ('nothing to train on', 'images'),
                ('image that img_suffix leaves out', '0.png'),
                ('label map without an image', '0.png'),
            },
        ),
    ],
)
def test_the_values_of_all_label_maps_reveal_a_wrong_numbering(tmp_path, values, settings, kinds):
    assert named(folders(tmp_path, *values, **settings)) == kinds


def test_a_setting_of_reduce_zero_label_that_mmseg_would_refuse_is_found(tmp_path):
    pipeline = [dict(type='LoadAnnotations', reduce_zero_label=True)]
    assert named(folders(tmp_path, (0, 1), pipeline=pipeline)) == {('two values of reduce_zero_label', 'masks')}


def test_values_between_those_of_black_and_white_masks_are_found(tmp_path):
    import mmseg_plugin  # noqa: F401

    own = dict(type='FolderDataset', values=(0, 255), metainfo=dict(classes=('background', 'cat')))
    problems = folders(tmp_path, (0, 255), (0, 255, 128, 1), **own)
    assert named(problems) == {('pixel value of no class', '1.png')}
    assert problems[0].detail == 'it has the values 1, 128; those of classes are 0, 255'


def test_sets_inside_wrappers_are_checked_once(mini_data, monkeypatch):
    cfg = Config.fromfile(DETECTION)
    inner = cfg.train_dataloader.dataset | dict(ann_file='annotations/none.json')
    wrapped = dict(type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[inner, inner]))
    monkeypatch.chdir(mini_data)
    init_default_scope('mmdet')
    problems = find_problems(Config(dict(default_scope='mmdet', train_dataloader=dict(dataset=wrapped))))
    assert named(problems) == {('missing annotation file', 'none.json')} and len(problems) == 1


def test_the_program_prints_kinds_with_their_fixes_writes_all_problems_as_json_and_fails(tool, data):
    folder = data / 'data/mini/coco/train2017'
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:2000])
    done = tool('check_dataset.py', DETECTION, '--json', 'problems.json', cwd=data)
    assert done.returncode == 1 and 'Traceback' not in done.stdout
    assert '8  damaged image\n' in done.stdout and ' fix: copy or download it again' in done.stdout
    assert 'data/mini/coco/train2017/000000000001.jpg: image file is truncated' in done.stdout
    assert 'and 5 more' in done.stdout and '8 problems found' in done.stdout
    problems = json.loads((data / 'problems.json').read_text())['problems']
    assert {Path(problem['file']).name for problem in problems} == {path.name for path in folder.iterdir()}
    assert all(set(problem) == {'file', 'kind', 'detail', 'fix'} for problem in problems)


def test_the_program_finds_nothing_in_clean_data_and_writes_a_sheet_into_the_work_directory(tool, data):
    done = tool('check_dataset.py', DETECTION, cwd=data)
    assert done.returncode == 0 and 'no problems found' in done.stdout
    assert 'samples of the training set: work_dirs/mask_rcnn_mambaout_mini/samples.png' in done.stdout
    assert Image.open(data / 'work_dirs/mask_rcnn_mambaout_mini/samples.png').size == (3 * 640, 3 * 440)


def test_the_sheet_shows_the_labels_of_each_pixel_as_the_pipeline_makes_them(data, monkeypatch):
    monkeypatch.chdir(data)
    for path in (data / 'data/mini/ade20k/annotations/training').iterdir():
        labels = np.zeros_like(Image.open(path))
        labels[:, : labels.shape[1] // 2] = 3  # sky, of which the palette says (6, 230, 230)
        Image.fromarray(labels).save(path)
    cfg = Config.fromfile(SEGMENTATION)
    flip = dict(type='RandomFlip', prob=1.0, direction='horizontal')
    cfg.train_dataloader.dataset.pipeline = [
        *cfg.train_dataloader.dataset.pipeline[:2],
        flip,
        dict(type='PackSegInputs'),
    ]
    init_default_scope('mmseg')
    draw_samples(cfg, 'sheet.png', number=1)
    sheet = np.asarray(Image.open('sheet.png')).astype(int)[:430]
    width = np.flatnonzero((sheet[:, :640] < 255).any(axis=(0, 2)))[-1]
    blue_over_red = (sheet[:, :width, 2] - sheet[:, :width, 0])[20:-20].mean(axis=0)
    assert blue_over_red[width // 2 + 20 :].min() > 40 > blue_over_red[: width // 2 - 20].max()


def test_a_config_without_training_data_is_refused(tool, tmp_path):
    config = tmp_path / 'testing.py'
    config.write_text(f'_base_ = {str(DETECTION)!r}\ntrain_dataloader = None\n')
    done = tool('check_dataset.py', config)
    assert done.returncode == 1 and f'error: {config} has no train_dataloader' in done.stdout
