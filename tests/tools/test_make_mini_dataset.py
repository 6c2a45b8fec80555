"""tools/make_mini_dataset.py: the same bytes again, sound annotations, layouts that mmdet, mmseg and timm read."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

TOOL = Path(__file__).parents[2] / 'tools' / 'make_mini_dataset.py'
KINDS = ['coco', 'ade20k', 'imagenet']
IMAGES = 12  # of which, in COCO, the 3rd has a crowd and the 5th no objects; 3 more for validation, in ImageNet 6


@pytest.fixture(scope='module')
def tool():
    from tools import make_mini_dataset

    return make_mini_dataset


def draw(kind: str, out: Path, images: int = IMAGES, seed: int = 0) -> Path:
    subprocess.run([sys.executable, TOOL, kind, out, f'--images={images}', f'--seed={seed}'], check=True)
    return out


@pytest.fixture(scope='module')
def coco_root(tmp_path_factory) -> Path:
    return draw('coco', tmp_path_factory.mktemp('mini') / 'coco')


@pytest.fixture(scope='module')
def ade20k_root(tmp_path_factory) -> Path:
    return draw('ade20k', tmp_path_factory.mktemp('mini') / 'ade20k')


@pytest.fixture(scope='module')
def imagenet_root(tmp_path_factory) -> Path:
    return draw('imagenet', tmp_path_factory.mktemp('mini') / 'imagenet')


@pytest.fixture(params=KINDS)
def kind_and_root(request) -> tuple[str, Path]:
    return request.param, request.getfixturevalue(f'{request.param}_root')


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob('*')) if path.is_file()}


def call(tool, monkeypatch, *argv) -> int:
    """main() in this process; its exit code."""
    monkeypatch.setattr(sys, 'argv', ['make_mini_dataset.py', *map(str, argv)])
    try:
        tool.main()
    except SystemExit as stop:
        return stop.code
    return 0


def annotations(root: Path, split: str) -> tuple[COCO, list[tuple[dict, np.ndarray]]]:
    """The index of pycocotools, and every annotation with the mask that pycocotools fills for it."""
    coco = COCO(root / 'annotations' / f'instances_{split}2017.json')
    return coco, [(mark, coco.annToMask(mark)) for mark in coco.loadAnns(coco.getAnnIds())]


# The same seed, the same bytes


def test_a_seed_gives_the_same_bytes_in_another_process(kind_and_root, tmp_path):
    kind, root = kind_and_root
    assert tree(draw(kind, tmp_path / 'again')) == tree(root)


def test_another_seed_and_the_other_split_give_other_pictures(kind_and_root, tmp_path):
    kind, root = kind_and_root
    pictures = [data for name, data in tree(root).items() if name.endswith('.jpg')]
    others = [data for name, data in tree(draw(kind, tmp_path / 'other', 6, seed=1)).items() if name.endswith('.jpg')]
    assert len({*pictures, *others}) == IMAGES + 6 + (6 + 6 if kind == 'imagenet' else 3 + 2)


def test_more_images_leave_the_earlier_ones_as_they_are(kind_and_root, tmp_path):
    kind, root = kind_and_root
    more, fewer = tree(root), tree(draw(kind, tmp_path / 'fewer', 6))
    pictures = [name for name in fewer if name.endswith(('.jpg', '.png'))]
    assert len(pictures) == dict(coco=6 + 2, ade20k=2 * (6 + 2), imagenet=6 + 6)[kind]
    assert all(fewer[name] == more[name] for name in pictures)
    for name in fewer:
        if name.startswith('annotations/instances_'):
            few, many = json.loads(fewer[name]), json.loads(more[name])
            for key in ('images', 'annotations'):
                assert few[key] == many[key][: len(few[key])]


# COCO


@pytest.mark.parametrize(('split', 'count'), [('train', IMAGES), ('val', 3)])
def test_pycocotools_finds_every_picture_in_its_size(coco_root, split, count):
    coco, _ = annotations(coco_root, split)
    assert len(coco.imgs) == count == len(list((coco_root / f'{split}2017').iterdir()))
    for image in coco.imgs.values():
        assert image['file_name'] == f'{image["id"]:012d}.jpg'
        picture = cv2.imread(str(coco_root / f'{split}2017' / image['file_name']))
        assert picture.shape == (image['height'], image['width'], 3)


@pytest.mark.parametrize('split', ['train', 'val'])
def test_every_mask_agrees_with_its_area_and_box(coco_root, split):
    coco, marks = annotations(coco_root, split)
    assert any(len(mark['segmentation']) > 1 for mark, _ in marks if not mark['iscrowd'])  # split, or with a hole
    for mark, mask in marks:
        assert mask.shape == (coco.imgs[mark['image_id']]['height'], coco.imgs[mark['image_id']]['width'])
        assert mask.sum() == mark['area'] >= 24
        assert list(cv2.boundingRect(mask)) == mark['bbox']


def test_polygons_and_run_lengths_give_back_any_mask(tool):
    rng = np.random.default_rng(0)
    for _ in range(50):
        mask = cv2.resize(rng.random((9, 11)), (44, 36)) > 0.5
        marks = [tool.polygons(mask), tool.run_lengths(mask)]
        coco = COCO()
        coco.imgs = {1: dict(height=36, width=44)}
        for segmentation in marks:
            assert (coco.annToMask(dict(image_id=1, segmentation=segmentation)) == mask).all()


def test_no_pixel_has_two_owners(coco_root):
    coco, marks = annotations(coco_root, 'train')
    for image_id in coco.imgs:
        masks = [mask for mark, mask in marks if mark['image_id'] == image_id]
        assert not masks or np.sum(masks, axis=0).max() == 1


def test_every_object_that_is_painted_is_annotated(tool, monkeypatch):
    painted, lay = [], tool.Scene.lay
    monkeypatch.setattr(tool.Scene, 'lay', lambda self, owner, *rest: (painted.append(owner), lay(self, owner, *rest)))
    for number in range(1, 41):
        painted.clear()
        _, objects = tool.draw_objects(np.random.default_rng(number), number)
        assert sorted(set(painted)) == list(range(len(objects) + 1))  # 0 is the background
        assert all(mask.sum() >= tool.MIN_PIXELS for _, mask, _ in objects)


def test_crowds_are_run_lengths_and_some_pictures_are_empty(coco_root):
    coco, marks = annotations(coco_root, 'train')
    crowds = [mark for mark, _ in marks if mark['iscrowd']]
    assert [mark['image_id'] for mark in crowds] == [3]
    assert all(isinstance(mark['segmentation']['counts'], list) for mark in crowds)
    assert all(isinstance(mark['segmentation'], list) for mark, _ in marks if not mark['iscrowd'])
    assert 5 not in coco.imgToAnns


def test_categories_are_cocos_and_no_id_occurs_twice(coco_root, tool):
    both = [annotations(coco_root, split) for split in ('train', 'val')]
    for coco, marks in both:
        assert {category['name']: category['id'] for category in coco.cats.values()} == tool.COCO_CLASSES
        assert all(category['supercategory'] for category in coco.cats.values())
        assert {mark['category_id'] for mark, _ in marks} <= set(tool.COCO_CLASSES.values())
    for ids in ([i for coco, _ in both for i in coco.imgs], [mark['id'] for _, marks in both for mark, _ in marks]):
        assert len(ids) == len(set(ids))


def test_mmdet_reads_it(coco_root, tool):
    importlib.import_module('mmdet_plugin')  # mmdet needs mmcv._ext, which it stands in for
    from mmcv.transforms import LoadImageFromFile
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.transforms import LoadAnnotations

    assert set(tool.COCO_CLASSES) <= set(CocoDataset.METAINFO['classes'])
    coco, _ = annotations(coco_root, 'train')
    common = dict(data_root=str(coco_root), ann_file='annotations/instances_train2017.json')
    common |= dict(data_prefix=dict(img='train2017/'), metainfo=dict(classes=tuple(tool.COCO_CLASSES)), pipeline=[])
    assert len(CocoDataset(**common, filter_cfg=dict(filter_empty_gt=True))) == IMAGES - 1
    dataset = CocoDataset(**common)
    assert len(dataset) == IMAGES
    names = dataset.metainfo['classes']
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        marks = coco.imgToAnns[info['img_id']]
        assert [names[one['bbox_label']] for one in info['instances']] == [
            coco.cats[mark['category_id']]['name'] for mark in marks
        ]
        loaded = LoadAnnotations(with_bbox=True, with_mask=True)(LoadImageFromFile()(info))
        assert loaded['gt_ignore_flags'].tolist() == [bool(mark['iscrowd']) for mark in marks]
        assert loaded['gt_masks'].areas.tolist() == [mark['area'] for mark in marks]


# ADE20K


def test_labels_are_the_classes_drawn_and_other(ade20k_root, tool):
    seen = set()
    for folder, split, count in (('training', 'train', IMAGES), ('validation', 'val', 3)):
        for number in range(1, count + 1):
            stem = f'{folder}/ADE_{split}_{number:08d}'
            labels = cv2.imread(str(ade20k_root / 'annotations' / f'{stem}.png'), cv2.IMREAD_UNCHANGED)
            picture = cv2.imread(str(ade20k_root / 'images' / f'{stem}.jpg'))
            assert labels.dtype == np.uint8 and labels.shape == picture.shape[:2]
            seen |= set(np.unique(labels).tolist())
    assert seen == {0, *tool.ADE_CLASSES}
    assert max(tool.ADE_CLASSES) <= 150


def test_text_files_look_like_ade20ks(ade20k_root, tool):
    header, *rows = (ade20k_root / 'objectInfo150.txt').read_text().splitlines()
    assert header.split('\t') == ['Idx', 'Ratio', 'Train', 'Val', 'Name']
    assert {int(row.split('\t')[0]): row.split('\t')[4] for row in rows} == tool.ADE_CLASSES
    assert 0.9 < sum(float(row.split('\t')[1]) for row in rows) < 1
    scenes = [line.split(' ') for line in (ade20k_root / 'sceneCategories.txt').read_text().splitlines()]
    assert [stem for stem, _ in scenes] == sorted(path.stem for path in ade20k_root.rglob('*.jpg'))


def test_mmseg_reads_it(ade20k_root, tool):
    importlib.import_module('mmseg_plugin')
    from mmseg.datasets import ADE20KDataset
    from mmseg.datasets.transforms import LoadAnnotations

    classes = ADE20KDataset.METAINFO['classes']
    assert all(classes[i - 1] == name for i, name in tool.ADE_CLASSES.items())
    for folder, count in (('training', IMAGES), ('validation', 3)):
        prefix = dict(img_path=f'images/{folder}', seg_map_path=f'annotations/{folder}')
        dataset = ADE20KDataset(data_root=str(ade20k_root), data_prefix=prefix, pipeline=[])
        assert len(dataset) == count
        for index in range(count):
            info = dataset.get_data_info(index)
            assert Path(info['img_path']).is_file()
            labels = cv2.imread(info['seg_map_path'], cv2.IMREAD_UNCHANGED)
            loaded = LoadAnnotations()(info)['gt_seg_map']
            assert (loaded == np.where(labels == 0, 255, labels - 1)).all()


# ImageNet


@pytest.mark.parametrize(
    ('images', 'train', 'val'), [(6, [1] * 6, [1] * 6), (33, [6, 6, 6, 5, 5, 5], [2, 2, 1, 1, 1, 1])]
)
def test_every_class_has_its_share_of_both_splits(tool, monkeypatch, tmp_path, capsys, images, train, val):
    assert call(tool, monkeypatch, 'imagenet', tmp_path, '--images', images) == 0
    folders = ['stop_sign', 'sports_ball', 'kite', 'banana', 'pizza', 'donut']
    for split, counts in (('train', train), ('val', val)):
        assert {path.name for path in (tmp_path / split).iterdir()} == set(folders)
        assert [len(list((tmp_path / split / folder).glob('*.jpg'))) for folder in folders] == counts
    assert {path.name for path in tmp_path.iterdir()} == {'train', 'val', 'mini.json'}
    assert f'stop sign {train[0] + val[0]}, ' in capsys.readouterr().out


def test_torchvision_and_timm_read_the_same_classes_in_small_pictures(imagenet_root):
    from timm.data import create_dataset
    from torchvision.datasets import ImageFolder

    for split, count in (('train', IMAGES), ('val', 6)):
        dataset = ImageFolder(imagenet_root / split)
        reader = create_dataset('', str(imagenet_root), split=split).reader
        assert len(dataset) == len(reader) == count
        assert reader.class_to_idx == dataset.class_to_idx and len(dataset.classes) == 6
        assert all(96 <= side <= 128 for picture, _ in dataset for side in picture.size)
        assert len({picture.size for picture, _ in dataset}) > 1


def test_the_large_object_on_top_is_of_the_class_asked_for(tool, monkeypatch):
    drawn, owners, thing, photograph = [], [], tool.Scene.thing, tool.Scene.photograph
    monkeypatch.setattr(tool.Scene, 'thing', lambda self, name, *at: (drawn.append(name), thing(self, name, *at))[1])
    monkeypatch.setattr(tool.Scene, 'photograph', lambda self: (owners.append(self.owner), photograph(self))[1])
    for number in range(60):
        name = list(tool.COCO_CLASSES)[number % 6]
        drawn.clear()
        tool.draw_portrait(np.random.default_rng(number), name)
        assert drawn[-1] == name and name not in drawn[:-1]
        top, *others = np.bincount(owners[-1].ravel())[:0:-1] / owners[-1].size
        assert top > 0.1 and top > 3 * max(others)


def test_the_folders_can_be_told_apart_by_the_pixels_alone(tool, monkeypatch, tmp_path):
    assert call(tool, monkeypatch, 'imagenet', tmp_path, '--images', 240) == 0

    def read(split: str) -> tuple[np.ndarray, np.ndarray]:
        paths = sorted((tmp_path / split).rglob('*.jpg'))
        small = [cv2.resize(cv2.imread(str(path)), (12, 12), interpolation=cv2.INTER_AREA) for path in paths]
        return np.array(small).reshape(len(paths), -1) / 255.0, np.array([path.parent.name for path in paths])

    (known, known_names), (asked, names) = read('train'), read('val')
    nearest = np.linalg.norm(asked[:, None] - known, axis=2).argmin(1)
    assert (known_names[nearest] == names).mean() > 0.5  # chance is 1/6


# Whole or not at all


def test_the_summary_is_two_lines(tool, monkeypatch, tmp_path, capsys):
    assert call(tool, monkeypatch, 'coco', tmp_path / 'parents' / 'out', '--images', 1) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith('1 training and 2 validation images') and str(tmp_path / 'parents' / 'out') in first
    assert all(name in second for name in tool.COCO_CLASSES)


def test_an_empty_folder_is_used(tool, monkeypatch, tmp_path):
    assert call(tool, monkeypatch, 'ade20k', tmp_path, '--images', 1) == 0
    assert (tmp_path / 'mini.json').is_file()


def test_the_same_data_set_is_left_as_it_is(coco_root, tool, monkeypatch, capsys):
    before = {path: path.stat().st_mtime_ns for path in coco_root.rglob('*')}
    assert call(tool, monkeypatch, 'coco', coco_root, '--images', IMAGES) == 0
    assert 'already' in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in coco_root.rglob('*')} == before


@pytest.mark.parametrize('change', [('coco', '--seed', 1), ('coco', '--images', 13), ('ade20k',)])
def test_another_data_set_is_refused_and_left_as_it_is(coco_root, tool, monkeypatch, capsys, change):
    before = tree(coco_root)
    kind, *options = change
    assert call(tool, monkeypatch, kind, coco_root, '--images', IMAGES, *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(coco_root) in line and 'name another folder' in line
    assert tree(coco_root) == before


def test_a_folder_of_somebody_else_is_refused(tool, monkeypatch, tmp_path, capsys):
    (tmp_path / 'thesis.tex').write_text('years of work')
    for out in (tmp_path, tmp_path / 'thesis.tex'):
        assert call(tool, monkeypatch, 'coco', out, '--images', 1) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert str(out) in line
    assert tree(tmp_path) == {'thesis.tex': b'years of work'}


@pytest.mark.parametrize(
    'argv',
    [
        ('coco', 'out', '--images', '0'),
        ('coco', 'out', '--images', 'many'),
        ('imagenet', 'out', '--images', '5'),
        ('coco', 'out', '--seed', '-1'),
        ('voc', 'out'),
        ('coco',),
        ('coco', 'file/out'),
    ],
)
def test_what_cannot_be_done_is_answered_with_one_line(tool, monkeypatch, tmp_path, capsys, argv):
    monkeypatch.chdir(tmp_path)
    Path('file').touch()
    assert call(tool, monkeypatch, *argv) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ['file']


@pytest.mark.parametrize('kind', KINDS)
def test_a_run_that_fails_leaves_nothing(tool, monkeypatch, tmp_path, capsys, kind):
    save = tool.save

    def full_disk(path: Path, *rest) -> None:
        if '00003' in path.name:
            raise OSError(28, 'No space left on device')
        save(path, *rest)

    monkeypatch.setattr(tool, 'save', full_disk)
    assert call(tool, monkeypatch, kind, tmp_path / 'out', '--images', 6) == 2
    assert 'No space left on device' in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
