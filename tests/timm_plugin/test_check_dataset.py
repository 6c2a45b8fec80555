"""tools/check_dataset.py finds every fault that is put into an intact ImageNet folder, and no other."""

import io
import json
import shutil
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

import timm_plugin  # noqa: F401
from backbones.errors import UserError
from mmengine_plugin.checks.all_data import find_problems
from mmengine_plugin.inference.drawing import SAMPLE_SIZE, draw_samples
from tests.conftest import CLASSIFICATION

ROOT = Path('data/mini/imagenet')
TRAIN, VAL = ROOT / 'train', ROOT / 'val'
CLASSES = ('banana', 'donut', 'kite', 'pizza', 'sports_ball', 'stop_sign')


@pytest.fixture(autouse=True)
def data(mini_data, tmp_path, monkeypatch) -> Path:
    """A copy of the mini data in the working directory, to be damaged."""
    shutil.copytree(mini_data / ROOT, tmp_path / ROOT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings(**options: object) -> Config:
    """The mini recipe with other settings."""
    cfg = Config.fromfile(CLASSIFICATION)
    cfg.merge_from_dict(options)
    cfg.test_dataloader = cfg.val_dataloader
    init_default_scope(cfg.default_scope)
    return cfg


def found(**options: object) -> list[tuple[str, str]]:
    """The kind and the file of each problem."""
    problems = find_problems(settings(**options))
    assert all(problem.detail and problem.fix for problem in problems)
    return sorted((problem.kind, problem.file) for problem in problems)


def picture(split: Path, name: str) -> Path:
    """The first image of a class."""
    return min((split / name).glob('*.jpg'))


def encoded(pixels: np.ndarray, kind: str = 'PNG', **options: object) -> bytes:
    """An image as the bytes of a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def broken_png() -> bytes:
    """A PNG with a part whose name has no letters, which PIL calls a SyntaxError."""
    content = encoded(np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8))
    second = content.index(b'IDAT', content.index(b'IDAT') + 4)
    return content[:second] + bytes(4) + content[second + 4 :]


def huge_png() -> bytes:
    """The head of a PNG of 10**10 pixels."""
    content = encoded(np.zeros((1, 1), np.uint8))
    head = b'IHDR' + (10**5).to_bytes(4, 'big') * 2 + content[24:29]
    return content[:12] + head + zlib.crc32(head).to_bytes(4, 'big') + content[33:]


DAMAGES = {
    'empty file': lambda content: b'',
    'damaged image': lambda content: content[: len(content) // 2],
    'damaged image ': lambda content: broken_png(),
    'no image that training can read': lambda content: b'<!DOCTYPE html><html>404</html>',
    'image that is too large for PIL': lambda content: huge_png(),
}


def test_intact_data_have_no_problem():
    assert found() == []


@pytest.mark.parametrize('split', [TRAIN, VAL])
def test_every_damaged_image_is_found_and_refused_by_the_training(split):
    files = {}
    for (kind, damage), name in zip(DAMAGES.items(), CLASSES, strict=False):
        files[picture(split, name)] = kind.strip()
        picture(split, name).write_bytes(damage(picture(split, name).read_bytes()))
    assert found() == sorted((kind, str(path)) for path, kind in files.items())
    dataset = DATASETS.build(settings()[f'{split.name}_dataloader'].dataset)
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        if Path(info['img_path']) in files:
            with pytest.raises(UserError, match='cannot be read'):
                dataset[index]
        else:
            assert dataset[index]['label'] == info['gt_label'] and dataset[index]['img_path'] == info['img_path']


def test_a_link_to_nowhere_is_found():
    path = picture(TRAIN, 'kite')
    path.unlink()
    path.symlink_to('nowhere.jpg')
    assert found() == [('missing file', str(path))]


@pytest.mark.parametrize(('highest', 'problems'), [(4095, 1), (255, 0)])
def test_a_grey_image_that_training_would_turn_white_is_found(highest, problems):
    path = picture(TRAIN, 'kite').with_suffix('.png')
    path.write_bytes(encoded(np.linspace(0, highest, 100).reshape(10, 10).astype(np.uint16)))
    assert found() == [('grey image of more than 8 bits', str(path))] * problems


@pytest.mark.parametrize('split', [TRAIN, VAL])
@pytest.mark.parametrize('file', [None, 'picture.webp'])
def test_a_class_folder_without_an_image_is_found_and_nothing_that_follows_from_it(split, file):
    shutil.rmtree(split / 'donut')
    (split / 'donut').mkdir()
    if file:
        (split / 'donut' / file).write_bytes(b'...')
    assert found() == [('class folder without an image', str(split / 'donut'))]


@pytest.mark.parametrize('split', [TRAIN, VAL])
def test_a_class_that_one_split_lacks_is_found(split):
    shutil.rmtree(split / 'donut')
    shutil.rmtree(split / 'kite')
    assert found() == [('class that another split has', str(split / name)) for name in ('donut', 'kite')]


def test_hidden_folders_and_files_that_are_no_images_are_no_problem():
    (TRAIN / '.ipynb_checkpoints').mkdir()
    (TRAIN / 'kite/.thumbs').mkdir()
    (TRAIN / 'kite/extra').mkdir()
    for path in (TRAIN / 'readme.txt', TRAIN / 'kite/labels.xml', VAL / 'kite/clip.mp4', TRAIN / 'kite/extra/a.txt'):
        path.write_text('text')
    assert found() == []


def test_images_outside_of_class_folders_are_found():
    for split in (TRAIN, VAL):
        shutil.copy(picture(split, 'kite'), split)
    problems = find_problems(settings(num_classes=7))
    outside = {problem.file for problem in problems if problem.kind == 'images outside of class folders'}
    assert outside == {str(TRAIN), str(VAL)}


def test_an_image_with_two_labels_is_found_and_a_copy_within_its_class_is_not():
    shutil.copy(picture(TRAIN, 'kite'), TRAIN / 'kite/copy.jpg')
    assert found() == []
    shutil.copy(picture(TRAIN, 'kite'), TRAIN / 'pizza/copy.jpg')
    (problem,) = find_problems(settings())
    assert (problem.kind, problem.file) == ('image with two labels', str(TRAIN / 'pizza/copy.jpg'))
    assert "kite/copy.jpg is the same image, with the label 'kite'" in problem.detail


def test_validation_images_that_are_training_images_are_noted(capsys):
    assert found() == [] and 'are also training images' not in capsys.readouterr().out
    shutil.copy(picture(TRAIN, 'kite'), VAL / 'kite/copy.jpg')
    assert found() == []
    assert '1 of the 7 validation images are also training images, the first is' in capsys.readouterr().out


@pytest.mark.parametrize('key', ['model.num_classes', 'train_dataloader.collate_fn.mixup.num_classes'])
def test_another_number_of_classes_than_the_data_is_found(key):
    (problem,) = find_problems(settings(**{key: 1000}))
    assert (problem.kind, problem.file) == ('another number of classes than the data', str(CLASSIFICATION))
    assert f'{key} is 1000, but {TRAIN} has 6 classes' in problem.detail and problem.fix.startswith('set it to 6')


def test_a_class_map_may_leave_out_folders_and_its_classes_need_images():
    Path('classes.txt').write_text('\n'.join(CLASSES))
    options = {f'{split}_dataloader.dataset.class_map': 'classes.txt' for split in ('train', 'val')}
    (TRAIN / 'other').mkdir()
    assert found(**options) == []
    shutil.rmtree(VAL / 'kite')
    assert found(**options) == [('class without an image', str(VAL))]


def test_lists_of_classes_in_another_order_are_found():
    Path('train.txt').write_text('\n'.join(CLASSES))
    Path('val.txt').write_text('\n'.join(CLASSES[::-1]))
    options = {f'{split}_dataloader.dataset.class_map': f'{split}.txt' for split in ('train', 'val')}
    assert found(**options) == [('different lists of classes', str(VAL))]


@pytest.mark.parametrize('cut', [False, True])
def test_images_in_a_tar_are_checked(cut):
    if cut:
        picture(TRAIN, 'kite').write_bytes(picture(TRAIN, 'kite').read_bytes()[:500])
    options = {}
    for split in (TRAIN, VAL):
        options[f'{split.name}_dataloader.dataset.root'] = f'{split.name}.tar'
        with tarfile.open(f'{split.name}.tar', 'w') as tar:
            tar.add(split, arcname='.')
    assert found(**options) == [('damaged image', 'train.tar, image 2: ./kite/train_00000003.jpg')] * cut
    draw_samples(settings(**options), 'sheet.png', number=2)
    assert Path('sheet.png').exists()


@pytest.mark.parametrize('content', [b'', b'<!DOCTYPE html>', None])
def test_a_tar_that_cannot_be_read_is_one_problem(content):
    if content is None:
        with tarfile.open('whole.tar', 'w') as tar:
            tar.add(TRAIN, arcname='.')
        content = Path('whole.tar').read_bytes()[:10_000]
    Path('train.tar').write_bytes(content)
    options = {'train_dataloader.dataset.root': 'train.tar'}
    assert found(**options) == [('data set that cannot be read', 'train.tar')]


def test_data_in_a_wrapper_are_checked():
    shutil.rmtree(TRAIN / 'donut')
    cfg = settings()
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=cfg.train_dataloader.dataset)
    (problem,) = find_problems(cfg)
    assert problem.file == str(TRAIN / 'donut')
    draw_samples(cfg, 'sheet.png', number=1)
    assert Image.open('sheet.png').size == (3 * SAMPLE_SIZE[0], SAMPLE_SIZE[1])


def test_the_sheet_shows_training_images_after_the_transform_with_the_names_of_their_classes():
    for name in CLASSES[1:]:
        shutil.rmtree(TRAIN / name)
    folder, sheets = TRAIN / CLASSES[0], {}
    picture(TRAIN, CLASSES[0]).write_bytes(encoded(np.full((40, 60, 3), (0, 0, 255), np.uint8), 'JPEG'))
    cfg = settings(**{'train_dataloader.dataset.transform': dict(_delete_=True, input_size=32)})
    for name in (CLASSES[0], 'n01440764', 'tench, Tinca tinca'):
        folder = folder.rename(TRAIN / name)
        draw_samples(cfg, 'sheet.png')
        sheets[name] = np.asarray(Image.open('sheet.png').convert('RGB')).astype(int)
    banana, synset, words = sheets.values()
    assert np.abs(banana[5:370, 5:370] - (0, 0, 255)).max() < 10  # square, enlarged and in RGB
    rows, columns = np.nonzero((banana != words).any(axis=2))
    assert rows.min() > 380 and rows.max() - rows.min() >= 20 and columns.max() > 200  # the names alone, legible
    assert np.array_equal(synset, words)  # ImageNet's synsets are shown in words


def test_the_program_lists_problems_writes_them_as_json_and_fails(tool, data):
    path = picture(TRAIN, 'kite')
    path.write_bytes(path.read_bytes()[:500])
    (VAL / 'extra').mkdir()
    done = tool('check_dataset.py', CLASSIFICATION, '--json', 'problems.json', cwd=data)
    assert done.returncode == 1 and 'Traceback' not in done.stdout and '2 problems found' in done.stdout
    assert f'1  damaged image\n    fix: copy or download it again\n         {path}: ' in done.stdout
    problems = json.loads(Path('problems.json').read_text())['problems']
    assert {problem['file'] for problem in problems} == {str(path), str(VAL / 'extra')}
    assert all(set(problem) == {'file', 'kind', 'detail', 'fix'} for problem in problems)


def test_the_program_finds_nothing_in_intact_data_and_writes_a_sheet_into_the_work_directory(tool, data):
    done = tool('check_dataset.py', CLASSIFICATION, cwd=data)
    assert done.returncode == 0 and 'no problems found' in done.stdout
    assert Image.open('work_dirs/imagenet_mambaout_mini/samples.png').size == (3 * SAMPLE_SIZE[0], 3 * SAMPLE_SIZE[1])


def test_a_root_that_does_not_exist_is_one_problem_with_its_fix(tool, data):
    shutil.rmtree(ROOT)
    done = tool('check_dataset.py', CLASSIFICATION, cwd=data)
    assert done.returncode == 1 and 'Traceback' not in done.stdout and '1 problem found' in done.stdout
    assert '1  missing folder\n    fix: put or link train/<class>/ and val/<class>/ there, or set' in done.stdout


def test_mending_is_refused(tool, data):
    done = tool('check_dataset.py', CLASSIFICATION, '--fix', 'mended', cwd=data)
    assert done.returncode == 1 and not Path('mended').exists()
    assert 'error: --fix mends annotation files of detection; classification has none' in done.stdout
