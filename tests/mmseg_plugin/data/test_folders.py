"""FolderDataset takes folders of images and masks as people have them, and names what it cannot use."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

import mmseg_plugin  # noqa: F401
from backbones import UserError
from mmseg_plugin.data.suggestions import FEW, suggest_folders
from tools.check_dataset import find_problems

LABELS = np.zeros((12, 16), np.uint8)
LABELS[3:8, 2:9] = 1
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]


def write(root: Path, *names: str, labels: np.ndarray = LABELS) -> None:
    """Write photos and masks; a name that has a mask's folder, ``m/``, or suffix is that of a mask."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.startswith('m/') or '_mask' in name or '_gt' in name:
            Image.fromarray(labels).save(root / name)
        else:
            Image.new('RGB', labels.shape[::-1]).save(root / name)


def settings(root: Path, **changes) -> dict:
    """A FolderDataset of images in ``i`` and masks in ``m``."""
    init_default_scope('mmseg')
    data = dict(
        type='FolderDataset',
        serialize_data=False,  # it takes most of the time
        data_root=str(root),
        data_prefix=dict(img_path='i', seg_map_path='m'),
        metainfo=dict(classes=('ground', 'thing')),
        pipeline=PIPELINE,
    )
    return data | changes


def pairs_of(root: Path, **changes) -> list[tuple[str, str | None]]:
    """The image and the mask of each sample, relative to the root, after loading all of them."""
    dataset = DATASETS.build(settings(root, **changes))
    for sample in dataset:
        assert (sample['data_samples'].gt_sem_seg.data[0].numpy() == LABELS).all()
    entries = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [tuple(str(Path(entry[key]).relative_to(root)) for key in ('img_path', 'seg_map_path')) for entry in entries]


def refusal(root: Path, **changes) -> str:
    """What the training says; the check must say the same, and first."""
    config = settings(root, **changes)
    with pytest.raises(UserError) as error:
        DATASETS.build(config)
    problems = find_problems(Config(dict(default_scope='mmseg', train_dataloader=dict(dataset=config))))
    message = str(error.value)
    assert message.startswith(str(problems[0])) and '\n' not in message
    return message


ONE_FOLDER = dict(data_prefix=dict(img_path='t', seg_map_path='t'))


@pytest.mark.parametrize(
    ('images', 'masks', 'changes'),
    [
        (['i/0.jpg', 'i/1.jpg'], ['m/0.png', 'm/1.png'], dict()),
        (['i/0.jpg', 'i/1.png', 'i/2.JPG', 'i/3.jpeg', 'i/4.TIF'], [f'm/{n}.png' for n in range(5)], dict()),
        (['i/0.jpg', 'i/1.png'], ['m/0.png', 'm/1.png'], dict(img_suffix=['.jpg', '.png'])),
        (['i/0.JPG', 'i/1.jpg'], ['m/0.PNG', 'm/1.png'], dict(img_suffix='.jpg', seg_map_suffix='.png')),
        (['i/0.jpg', 'i/1.jpg', 'i/2.jpg'], ['m/0.png', 'm/1.bmp', 'm/2.tif'], dict()),
        (['i/bonn/0.jpg', 'i/ulm/0.jpg'], ['m/bonn/0.png', 'm/ulm/0.png'], dict()),
        (
            ['i/ulm/1_leftImg8bit.png'],
            ['m/ulm/1_gtFine_labelIds.png'],
            dict(img_suffix='_leftImg8bit.png', seg_map_suffix='_gtFine_labelIds.png'),
        ),
        (['i/Straße 1 (b).jpg', 'i/дом.jpg'], ['m/Straße 1 (b).png', 'm/дом.png'], dict()),
        (
            ['t/0_sat.jpg', 't/1_sat.jpg'],
            ['t/0_mask.png', 't/1_mask.png'],
            ONE_FOLDER | dict(img_suffix='_sat.jpg', seg_map_suffix='_mask.png'),
        ),
        (['t/0.png', 't/1.png'], ['t/0_mask.png', 't/1_mask.png'], ONE_FOLDER | dict(seg_map_suffix='_mask.png')),
        (
            ['t/0.png', 't/1.png'],
            ['t/0_mask.png', 't/1_mask.png'],
            ONE_FOLDER | dict(img_suffix='.png', seg_map_suffix='_mask.png'),
        ),
        (
            ['t/a.jpg', 't/b.jpg'],
            ['t/m/a.png', 't/m/b.png'],
            dict(data_prefix=dict(img_path='t', seg_map_path='t/m')),
        ),
    ],
)
def test_every_image_gets_its_own_mask(tmp_path, images, masks, changes):
    write(tmp_path, *images)
    for mask in masks:
        (tmp_path / mask).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(LABELS).save(tmp_path / mask)
    assert pairs_of(tmp_path, **changes) == list(zip(images, masks, strict=True))


def test_in_one_folder_without_settings_jpegs_are_images_and_pngs_are_masks(tmp_path):
    write(tmp_path, 't/0.jpg', 't/1.JPEG')
    for name in ('0.png', '1.png'):
        Image.fromarray(LABELS).save(tmp_path / 't' / name)
    assert pairs_of(tmp_path, **ONE_FOLDER) == [('t/0.jpg', 't/0.png'), ('t/1.JPEG', 't/1.png')]


@pytest.mark.parametrize(
    ('names', 'changes', 'words'),
    [
        (
            [f't/{n}{end}' for n in range(12) for end in ('_sat.jpg', '_mask.png')],
            ONE_FOLDER,
            "set img_suffix='_sat.jpg', seg_map_suffix='_mask.png'",
        ),
        (
            [f't/{n}{end}' for n in range(12) for end in ('.png', '_mask.png')],
            ONE_FOLDER,
            "set img_suffix='.png', seg_map_suffix='_mask.png'",
        ),
        (
            [f'{f}/ulm/{n}{end}' for n in range(12) for f, end in (('i', '_left.png'), ('m', '_gt_ids.png'))],
            dict(),
            "set img_suffix='_left.png', seg_map_suffix='_gt_ids.png'",
        ),
        (['i/0.jpg', 'i/1.png', 'm/0.png', 'm/1.png'], dict(img_suffix='.jpg'), "set img_suffix=('.jpg', '.png')"),
        (
            ['i/21_training.tif', 'i/22_training.tif', 'm/21_manual1.gif', 'm/22_manual1.gif'],
            dict(),
            "set img_suffix='_training.tif', seg_map_suffix='_manual1.gif'",
        ),
        (['i/0.jpg', 'i/0.png', 'm/0.png'], dict(), 'i/0: two images of one name: it has 0.jpg and 0.png'),
        (['i/0.jpg', 'm/0.png', 'm/0.bmp'], dict(), 'two masks for one image: '),
        (['i/0.jpg', 'i/1.jpg', 'm/0.png'], dict(), 'm has no 1.png; put the mask there'),
        (['i/0.jpg', 'm/0.jpg'], dict(), 'm/0.jpg: mask saved as JPEG: '),
        (['i/0.jpg', 'm/0.jpg'], dict(seg_map_suffix='.jpg'), 'm/0.jpg: mask saved as JPEG: '),
        (['i/0.jpg', 'm/0.png'], dict(data_prefix=dict(img_path='i')), "seg_map_path='m')"),
        (
            ['train/images/0.jpg', 'train/masks/0.png'],
            dict(),
            "set data_prefix=dict(img_path='train/images', seg_map_path='train/masks')",
        ),
        (['i/0.jpg', 'm/0.png'], dict(img_suffix='.bmp'), "set img_suffix='.jpg', seg_map_suffix='.png'"),
        (['i/a/0.jpg', 'm/b/0.png'], dict(), 'image without a mask'),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_with_the_setting_to_type(tmp_path, names, changes, words):
    write(tmp_path, *names)
    assert words in refusal(tmp_path, **changes)


@pytest.mark.parametrize('ending', ['npy', 'json'])
def test_a_mask_that_is_no_image_is_answered_with_the_program_that_converts_it(tmp_path, ending):
    write(tmp_path, 'i/0.jpg')
    (tmp_path / 'm').mkdir()
    (tmp_path / f'm/0.{ending}').write_bytes(b'')
    assert f'm/0.{ending}: mask that is not an image: ' in refusal(tmp_path)
    assert 'tools/convert_dataset.py' in refusal(tmp_path)


@pytest.mark.parametrize(
    'text', ['b/1\n0\n', 'b/1.jpg\r\n0.png\r\n', '\ufeff b/1 \r\n\r\n0', 'b\\1.jpg\n0.png\n'], ids=ascii
)
def test_a_list_of_images_has_names_with_or_without_endings_in_its_own_order(tmp_path, text):
    write(tmp_path, 'i/0.png', 'i/b/1.jpg', 'i/2.jpg', 'm/0.png', 'm/b/1.png', 'm/2.png')
    (tmp_path / 'train.txt').write_bytes(text.encode())
    assert pairs_of(tmp_path, ann_file='train.txt') == [('i/b/1.jpg', 'm/b/1.png'), ('i/0.png', 'm/0.png')]


def test_names_in_a_list_may_leave_out_the_ending_or_the_whole_suffix(tmp_path):
    write(tmp_path, 't/0_sat.jpg', 't/0_mask.png', 't/1_sat.jpg', 't/1_mask.png')
    (tmp_path / 'train.txt').write_text('1_sat\n0\n')
    suffixes = dict(img_suffix='_sat.jpg', seg_map_suffix='_mask.png', ann_file='train.txt')
    found = pairs_of(tmp_path, **ONE_FOLDER, **suffixes)
    assert found == [('t/1_sat.jpg', 't/1_mask.png'), ('t/0_sat.jpg', 't/0_mask.png')]


@pytest.mark.parametrize(('text', 'words'), [('0\n7.jpg\n', "line 2 is '7.jpg'"), ('\n', 'it lists no image')])
def test_a_list_that_names_no_image_is_refused(tmp_path, text, words):
    write(tmp_path, 'i/0.jpg', 'm/0.png')
    (tmp_path / 'train.txt').write_text(text)
    assert words in refusal(tmp_path, ann_file='train.txt')


def test_a_test_set_needs_no_masks(tmp_path):
    write(tmp_path, 'i/0.jpg', 'i/1.png')
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
    data = settings(tmp_path, data_prefix=dict(img_path='i'), pipeline=pipeline, test_mode=True)
    assert len(DATASETS.build(data)) == 2
    with pytest.raises(UserError, match='1.png: image that img_suffix leaves out'):
        DATASETS.build(data | dict(img_suffix='.jpg'))
    with pytest.raises(UserError, match=r"that ends in '.bmp'; leave out img_suffix: .* end in .jpg, .png$"):
        DATASETS.build(data | dict(img_suffix='.bmp'))


def test_the_first_images_may_be_chosen_and_label_0_may_be_ignored(tmp_path):
    write(tmp_path, 'i/0.jpg', 'i/1.png', 'i/2.jpg', 'm/0.png', 'm/1.png', 'm/2.png', labels=LABELS + 1)
    dataset = DATASETS.build(settings(tmp_path, indices=2, reduce_zero_label=True))
    assert len(dataset) == 2
    assert (dataset[1]['data_samples'].gt_sem_seg.data[0].numpy() == LABELS).all()


def test_masks_without_an_image_are_listed_by_the_check_only(tmp_path):
    write(tmp_path, 'i/0.jpg', 'm/0.png', 'm/7.png', 'm/0_preview.png')
    data = settings(tmp_path)
    assert len(DATASETS.build(data)) == 1
    (problem,) = find_problems(Config(dict(default_scope='mmseg', train_dataloader=dict(dataset=data))))
    assert problem.kind == 'label map without an image' and problem.file.endswith('m/7.png')


def test_each_folder_is_read_once(tmp_path, monkeypatch):
    from mmseg_plugin.data import pairs

    write(tmp_path, *(f'{place}/{n}.png' for n in range(9) for place in ('i', 'm')))
    real, read = pairs.files_below, []
    monkeypatch.setattr(pairs, 'files_below', lambda folder: read.append(folder) or real(folder))
    assert len(DATASETS.build(settings(tmp_path))) == 9
    assert sorted(Path(folder).name for folder in read) == ['i', 'm']


@pytest.mark.parametrize('stock', ['BaseSegDataset', 'CheckedADE20KDataset'])
def test_the_check_of_a_stock_data_set_names_the_setting_of_folder_dataset(tmp_path, stock):
    write(tmp_path, 'i/0.jpg', 'i/1.png', 'm/0.png', 'm/1.png', labels=LABELS * 100)
    data = settings(tmp_path, type=stock)
    if stock == 'CheckedADE20KDataset':
        del data['metainfo']
    problems = find_problems(Config(dict(default_scope='mmseg', train_dataloader=dict(dataset=data))))
    fixes = {problem.kind: problem.fix for problem in problems}
    assert "type='FolderDataset'" in fixes['image that img_suffix leaves out']
    if stock == 'BaseSegDataset':
        assert "type='FolderDataset', values=(0, 100)" in fixes['label at or above the number of classes']


def test_among_many_folders_only_one_with_a_name_for_masks_is_suggested(tmp_path):
    folders = [tmp_path / f'v{number}' for number in range(FEW + 1)]  # the frames of videos
    for folder in folders:
        folder.mkdir()
        (folder / '0.png').touch()
    assert suggest_folders(str(tmp_path)) is None
    folders.pop().rename(tmp_path / 'masks')
    assert suggest_folders(str(tmp_path)).endswith("seg_map_path='masks')")
    (folders.pop() / '0.png').unlink()
    (tmp_path / 'masks/0.png').unlink()
    assert suggest_folders(str(tmp_path)) is not None  # any two of a few folders
