"""Coloured masks become labels, whatever the file format, and an unknown colour is named."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

import mmseg_plugin  # noqa: F401
from backbones import UserError
from mmseg_plugin.data.color_masks import colors_to_indices, read_labelmap
from tools.check_dataset import find_problems

COLORS = ((0, 0, 0), (220, 40, 40), (40, 60, 220))  # blue and red differ: another order would be another class
BORDER = (224, 224, 192)
LABELS = np.random.RandomState(0).randint(0, 3, (24, 32)).astype(np.uint8)
MASK = np.array(COLORS, np.uint8)[LABELS]
CLASSES = ('ground', 'cat', 'dog')


def settings(root: Path, mask: Image.Image, name: str = '0.png', **changes) -> dict:
    """The settings of a FolderDataset with one image and one mask, which are written first."""
    for folder in ('i', 'm'):
        (root / folder).mkdir(exist_ok=True)
    Image.new('RGB', mask.size).save(root / 'i/0.jpg')
    mask.save(root / 'm' / name)
    init_default_scope('mmseg')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
    classes = dict(metainfo=dict(classes=CLASSES), serialize_data=False)  # serializing takes most of the time
    data = dict(type='FolderDataset', data_root=str(root), **classes, pipeline=pipeline)
    return data | dict(data_prefix=dict(img_path='i', seg_map_path='m')) | changes


def labels_of(config: dict) -> np.ndarray:
    return DATASETS.build(config)[0]['data_samples'].gt_sem_seg.data[0].numpy()


def check(config: dict) -> list:
    return find_problems(Config(dict(default_scope='mmseg', train_dataloader=dict(dataset=config))))


def test_each_colour_becomes_the_index_of_its_class():
    assert (colors_to_indices(MASK, COLORS) == LABELS).all()
    assert (colors_to_indices(MASK[:, ::-1], COLORS) == LABELS[:, ::-1]).all()  # not contiguous
    assert (colors_to_indices(MASK, COLORS[::-1]) == 2 - LABELS).all()
    assert colors_to_indices(MASK, COLORS).dtype == np.uint8


def test_ignored_colours_become_255():
    mask = MASK.copy()
    mask[0] = BORDER
    labels = colors_to_indices(mask, COLORS, [BORDER])
    assert (labels[0] == 255).all() and (labels[1:] == LABELS[1:]).all()


def test_the_unknown_colour_with_the_most_pixels_is_named():
    mask = MASK.copy()
    mask[0, :5], mask[0, 5:7] = BORDER, (1, 2, 3)
    with pytest.raises(UserError, match=r'^5 pixels have the colour \(224, 224, 192\), .*and 1 more unknown colours'):
        colors_to_indices(mask, COLORS)


def test_the_labelmap_of_cvat_gives_the_colours_of_the_classes(tmp_path):
    path = tmp_path / 'labelmap.txt'
    path.write_text('# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:220,40,40::\r\nred dog:40,60,220:a,b:c\n')
    assert read_labelmap(path) == {'background': (0, 0, 0), 'cat': (220, 40, 40), 'red dog': (40, 60, 220)}


@pytest.mark.parametrize('line', ['cat', 'cat:1,2::', 'cat:1,2,300::', 'cat:a,b,c::', 'dog:0,0,0::'])
def test_a_wrong_line_of_a_labelmap_is_named_by_its_number(tmp_path, line):
    path = tmp_path / 'labelmap.txt'
    path.write_text(f'background:0,0,0::\n{line}\n')
    with pytest.raises(UserError, match='labelmap.txt, line 2: '):
        read_labelmap(path)


def palette_mask() -> Image.Image:
    """A mask whose palette has the colours of the classes, but at other indices."""
    mask = Image.fromarray(np.array([7, 3, 200], np.uint8)[LABELS], 'P')
    palette = np.full((256, 3), 99, np.uint8)
    palette[[7, 3, 200]] = COLORS
    mask.putpalette(palette.tobytes())
    return mask


def alpha_mask() -> Image.Image:
    """A mask that is transparent wherever no object is."""
    return Image.fromarray(np.dstack([MASK, np.where(LABELS, 255, 0).astype(np.uint8)]))


@pytest.mark.parametrize('values', [COLORS, [list(color) for color in COLORS]], ids=['tuples', 'lists'])
@pytest.mark.parametrize(
    ('mask', 'name'),
    [
        (Image.fromarray(MASK), '0.png'),
        (Image.fromarray(MASK), '0.bmp'),
        (palette_mask(), '0.png'),
        (alpha_mask(), '0.png'),
    ],
    ids=['png', 'bmp', 'palette', 'alpha'],
)
def test_values_may_be_colours(tmp_path, mask, name, values):
    config = settings(tmp_path, mask, name, values=values)
    assert (labels_of(config) == LABELS).all()
    assert check(config) == []


@pytest.mark.parametrize('backend', ['pillow', 'cv2'])
def test_each_decoder_gives_the_colours_in_the_same_order(tmp_path, backend):
    load = [dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations', imdecode_backend=backend)]
    config = settings(tmp_path, alpha_mask(), values=COLORS, pipeline=[*load, dict(type='PackSegInputs')])
    assert (labels_of(config) == LABELS).all()


def test_colours_work_within_test_time_augmentation(tmp_path):
    views = [[dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)], [dict(type='LoadAnnotations')]]
    augmentation = dict(type='TestTimeAug', transforms=[*views, [dict(type='PackSegInputs')]])
    config = settings(
        tmp_path, Image.fromarray(MASK), values=COLORS, pipeline=[dict(type='LoadImageFromFile'), augmentation]
    )
    for sample in DATASETS.build(config)[0]['data_samples']:
        assert (sample.gt_sem_seg.data[0].numpy() == LABELS).all()


def test_colours_and_numbers_may_be_ignored(tmp_path):
    mask = MASK.copy()
    mask[0] = BORDER
    labels = labels_of(settings(tmp_path, Image.fromarray(mask), values=COLORS, ignored_values=[BORDER]))
    assert (labels[0] == 255).all() and (labels[1:] == LABELS[1:]).all()
    config = settings(tmp_path, Image.fromarray(LABELS), values=(0, 2), metainfo=dict(classes=('a', 'b')))
    assert (labels_of(config | dict(ignored_values=[1])) == np.array([0, 255, 1])[LABELS]).all()
    assert check(config | dict(ignored_values=[1])) == []
    assert [problem.kind for problem in check(config)] == ['pixel value of no class']


def test_an_unknown_colour_is_refused_with_its_file_and_its_number_of_pixels(tmp_path):
    mask = MASK.copy()
    mask[2] = BORDER
    config = settings(tmp_path, Image.fromarray(mask), values=COLORS)
    with pytest.raises(UserError, match=r'm/0.png: 32 pixels have the colour \(224, 224, 192\)'):
        labels_of(config)
    (problem,) = check(config)
    assert problem.kind == 'colour of no class' and '32 pixels have the colour' in problem.detail
    assert 'ignored_values' in problem.fix


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        (dict(values=COLORS[:2]), r'one colour \(red, green, blue\) for each'),
        (dict(values=(0, *COLORS[1:])), 'one colour'),
        (dict(values=((0, 0, 0), (0, 0, 0), (1, 1, 1))), 'one colour'),
        (dict(values=((0, 0), (1, 1), (2, 2))), 'one colour'),
        (dict(values=COLORS, ignored_values=[7]), 'ignored_values='),
        (dict(values=COLORS, ignored_values=[COLORS[1]]), 'is in values and in ignored_values'),
        (dict(values=COLORS, reduce_zero_label=True), 'exclude each other'),
        (dict(values=(0, 1, 300)), 'one pixel value for each'),
    ],
)
def test_values_that_do_not_fit_the_classes_are_refused(tmp_path, changes, words):
    with pytest.raises(UserError, match=words):
        DATASETS.build(settings(tmp_path, Image.fromarray(MASK), **changes))


def test_the_check_prints_values_for_coloured_masks_that_then_work(tmp_path):
    config = settings(tmp_path, Image.fromarray(MASK))
    (problem,) = check(config)
    values = problem.fix.split('values=')[1].split(' in the data set')[0]
    assert problem.kind == 'coloured label map' and 'they have 34 %, 33.2 %, 32.8 % of the pixels' in problem.fix
    found = labels_of(config | dict(values=eval(values)))
    counts = np.bincount(LABELS.ravel())
    assert (np.bincount(found.ravel()) == np.sort(counts)[::-1]).all()  # the most frequent colour is first
    assert (np.argsort(-counts)[found] == LABELS).all()


def test_the_check_names_the_classes_by_the_labelmap_beside_the_masks(tmp_path):
    config = settings(tmp_path, Image.fromarray(MASK))
    lines = [f'{name}:{",".join(map(str, color))}::' for name, color in zip(CLASSES, COLORS, strict=True)]
    (tmp_path / 'labelmap.txt').write_text('\n'.join(['# label:color_rgb:parts:actions', *lines]))
    (problem,) = check(config)
    assert f'values={COLORS}, metainfo=dict(classes={CLASSES})' in problem.fix


def test_masks_with_hundreds_of_colours_are_not_taken_for_classes(tmp_path):
    noise = np.random.RandomState(0).randint(0, 256, (24, 32, 3)).astype(np.uint8)
    (problem,) = check(settings(tmp_path, Image.fromarray(noise)))
    assert problem.detail == 'it has more than 200 colours'
    assert 'without smooth edges' in problem.fix and 'values=' not in problem.fix


def test_a_coloured_mask_without_values_is_refused_while_training(tmp_path):
    with pytest.raises(UserError, match='m/0.png: it has colours, and must have one channel of class indices'):
        labels_of(settings(tmp_path, Image.fromarray(MASK)))
