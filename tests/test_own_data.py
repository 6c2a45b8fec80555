"""The configs in docs/data.md for your own data: checked, trained, scored and predicted."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image
from pycocotools.coco import COCO

from backbones import UserError
from tests.conftest import FAST, ROOT

CONFIGS = dict(re.findall(r'```python\n# (\w+)\.py\n(.*?)```', (ROOT / 'docs/data.md').read_text(), re.DOTALL))
SIZES = dict(pets='mask_rcnn_mambaout_tiny', cracks='upernet_mambaout_tiny')
MINI = dict(pets='mini/mask_rcnn_mambaout_mini', cracks='mini/upernet_mambaout_mini')
SHORT = dict(
    pets=['train_cfg.max_epochs=1', 'train_cfg.val_interval=1'],
    cracks=['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'default_hooks.checkpoint.interval=2'],
)


def make_pets(mini: Path, root: Path) -> None:
    """Write two classes of the mini set under other names and ids, in another layout."""
    names = {'stop sign': (7, 'cat'), 'sports ball': (9, 'dog')}
    for split in ('train', 'val'):
        coco = COCO(str(mini / f'annotations/instances_{split}2017.json'))
        renamed = {coco.getCatIds(catNms=[old])[0]: new for old, (new, _) in names.items()}
        images = [dict(image, file_name=f'{split}_{image["file_name"]}') for image in coco.dataset['images']]
        content = dict(
            images=images,
            annotations=[
                dict(a, category_id=renamed[a['category_id']])
                for a in coco.dataset['annotations']
                if a['category_id'] in renamed
            ],
            categories=[dict(id=new, name=name) for new, name in names.values()],
        )
        (root / 'images').mkdir(parents=True, exist_ok=True)
        (root / f'{split}.json').write_text(json.dumps(content))
        for old, new in zip(coco.dataset['images'], images, strict=True):
            shutil.copy(mini / f'{split}2017' / old['file_name'], root / 'images' / new['file_name'])


def make_cracks(mini: Path, root: Path) -> None:
    """Write black and white masks, which are white where the mini set has anything but ground."""
    for split, old in dict(train='training', val='validation').items():
        shutil.copytree(mini / 'images' / old, root / split / 'images')
        (root / split / 'masks').mkdir(parents=True)
        for path in (mini / 'annotations' / old).iterdir():
            labels = np.asarray(Image.open(path))
            Image.fromarray(np.where(labels > 1, 255, 0).astype(np.uint8)).save(root / split / 'masks' / path.name)


@pytest.fixture(scope='module')
def project(mini_data, tmp_path_factory) -> Path:
    """A folder of a user: data, and the documented configs with the mini models."""
    folder = tmp_path_factory.mktemp('project')
    make_pets(mini_data / 'data/mini/coco', folder / 'data/pets')
    make_cracks(mini_data / 'data/mini/ade20k', folder / 'data/cracks')
    for name in SIZES:
        text = CONFIGS[name]
        assert SIZES[name] in text and len(text.splitlines()) <= 10
        (folder / f'{name}.py').write_text(text.replace(SIZES[name], MINI[name]))
    return folder


@pytest.mark.parametrize('name', SIZES)
def test_a_documented_config_is_checked_trains_scores_and_predicts(name, tool, project):
    def runs(*arguments: object) -> str:
        done = tool(*arguments, cwd=project)
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout

    runs('check_dataset.py', f'{name}.py')
    work_dir = project / 'work_dirs' / name
    said = runs('train.py', f'{name}.py', '--cfg-options', *FAST, *SHORT[name])
    assert ('coco/segm_mAP: ' if name == 'pets' else 'mIoU: ') in said
    checkpoint = work_dir / (work_dir / 'last_checkpoint').read_text()
    images = project / 'data' / name / ('images' if name == 'pets' else 'val/images')
    runs('predict.py', f'{name}.py', checkpoint, images, '--out-dir', project / f'{name}_out', '--score-thr', 0)
    found = json.loads((project / f'{name}_out/predictions.json').read_text())
    classes = {entry['category_name'] for entry in found} if name == 'pets' else set(found['classes'])
    assert classes <= set(Config.fromfile(project / f'{name}.py').data.metainfo.classes)
    assert len(list((project / f'{name}_out/pictures').rglob('*.png'))) == len(list(images.iterdir()))


@pytest.mark.parametrize(('name', 'lines'), [('pets', 'few_images'), ('cracks', 'few_masks')])
def test_the_lines_for_a_small_data_set_shorten_training_and_schedule_alike(name, lines, tmp_path):
    (tmp_path / 'a.py').write_text(CONFIGS[name] + CONFIGS[lines])
    cfg = Config.fromfile(tmp_path / 'a.py')
    length = cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters
    warm_up, decay = cfg.param_scheduler
    assert decay.end == length and all(m < length for m in decay.get('milestones', ()))
    assert warm_up.end == 100 and decay.begin in (0, warm_up.end)
    assert cfg.train_cfg.val_interval < length and cfg.optim_wrapper.optimizer.lr == 1e-4


@pytest.mark.parametrize('masks', ['of 0 and 255', 'with a palette'])
def test_pixels_become_the_classes_given_by_values_or_indices(masks, project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    cfg = Config.fromfile('cracks.py')
    init_default_scope('mmseg')
    data = cfg.val_dataloader.dataset
    if masks == 'with a palette':
        shutil.copytree('data/cracks/val', tmp_path / 'val')
        for path in (tmp_path / 'val/masks').iterdir():
            indexed = Image.fromarray(np.asarray(Image.open(path)) // 255)
            indexed.putpalette([0, 0, 0, 250, 120, 30])
            assert indexed.mode == 'P'
            indexed.save(path)
        data.update(data_root=str(tmp_path), values=None)
    dataset = DATASETS.build(data)
    for i in range(len(dataset)):
        sample = dataset[i]['data_samples']
        white = np.asarray(Image.open(Path('data/cracks/val/masks', Path(sample.seg_map_path).name))) == 255
        assert (sample.gt_sem_seg.data[0].numpy() == white).all() and white.any()


@pytest.mark.parametrize(
    ('name', 'text', 'words'),
    [
        (
            'cracks',
            'train_dataloader = dict(dataset=dict(values=(0, 1, 255)))',
            ['values=(0, 1, 255)', 'one pixel value'],
        ),
        ('cracks', 'train_dataloader = dict(dataset=dict(values=5))', ['values=5', 'one pixel value']),
        ('cracks', 'train_dataloader = dict(dataset=dict(reduce_zero_label=True))', ['exclude each other']),
        (
            'cracks',
            "train_dataloader = dict(dataset=dict(img_suffix='.png'))",
            ["no image that ends in '.png'", "set img_suffix='.jpg', seg_map_suffix='.png'"],
        ),
    ],
)
def test_a_mistake_in_a_config_for_own_data_is_named(name, text, words, tool, project):
    path = project / 'mistaken.py'
    path.write_text(f"_base_ = '{name}.py'\n{text}\n")
    done = tool('train.py', path, '--work-dir', project / 'mistaken', '--cfg-options', *FAST, *SHORT[name], cwd=project)
    assert done.returncode == 1 and 'Traceback' not in done.stdout, done.stdout[-3000:]
    for word in words:
        assert word in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ('mask', 'values', 'words'),
    [
        (np.full((160, 208), 7, np.uint8), None, 'has label 7, but 2 classes end at 1'),
        (np.full((160, 208), 128, np.uint8), (0, 255), r'has pixels that are none of values=\(0, 255\)'),
        (np.full((160, 208), 1, np.uint8), (0, 255), 'has pixels that are none of'),  # not class 1
        (np.zeros((80, 104), np.uint8), (0, 255), 'has 104x80 pixels, and its image has 208x160'),
        (np.full((160, 208, 3), (220, 40, 40), np.uint8), (0, 255), 'one channel of class indices'),
    ],
    ids=['unknown index', 'unknown value', 'index among values', 'other size', 'colours'],
)
def test_an_impossible_mask_is_refused_by_its_name(mask, values, words, project, tmp_path):
    cfg = Config.fromfile(project / 'cracks.py')
    init_default_scope('mmseg')
    for folder, image in (('images', 'a.jpg'), ('masks', 'a.png')):
        (tmp_path / 'val' / folder).mkdir(parents=True)
        pixels = np.zeros((160, 208, 3), np.uint8) if folder == 'images' else mask
        Image.fromarray(pixels).save(tmp_path / 'val' / folder / image)
    dataset = DATASETS.build(dict(cfg.val_dataloader.dataset, data_root=str(tmp_path), values=values))
    with pytest.raises(UserError, match=f'val/masks/a.png:? .*{words}'):
        dataset[0]


@pytest.fixture
def damaged(project, tmp_path) -> Path:
    """The project with one unreadable training image for each task."""
    shutil.copytree(project / 'data', tmp_path / 'data')
    for name in SIZES:
        shutil.copy(project / f'{name}.py', tmp_path)
    pets = json.loads((tmp_path / 'data/pets/train.json').read_text())
    shown = pets['annotations'][0]['image_id']  # mmdet leaves out images without objects
    name = next(image['file_name'] for image in pets['images'] if image['id'] == shown)
    (tmp_path / 'data/pets/images' / name).write_text('<html>404</html>')
    (tmp_path / 'data/cracks/train/images/ADE_train_00000001.jpg').write_text('')
    return tmp_path


BAD = dict(pets=r'train_\d+.jpg: no image that training can read', cracks='ADE_train_00000001.jpg: empty file')


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize('name', SIZES)
def test_a_bad_sample_stops_the_training_with_its_name(name, workers, tool, damaged):
    loader = [f'train_dataloader.num_workers={workers}', f'train_dataloader.persistent_workers={bool(workers)}']
    done = tool('train.py', f'{name}.py', '--cfg-options', *FAST, *loader, *SHORT[name], cwd=damaged)
    assert done.returncode == 1, done.stdout[-3000:]
    assert re.match(rf'error: \S+{BAD[name]}', done.stdout.splitlines()[-1]), done.stdout[-3000:]


@pytest.mark.parametrize('name', SIZES)
def test_a_bad_sample_may_be_skipped_and_is_listed(name, tool, damaged):
    options = [*FAST, *SHORT[name], 'train_dataloader.dataset.skip_bad_samples=True', 'train_dataloader.num_workers=1']
    done = tool('train.py', f'{name}.py', '--cfg-options', *options, cwd=damaged)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(BAD[name], done.stdout)
    assert re.search(
        rf'1 of \d+ training samples could not be used and were left out:\n  .*{BAD[name].split(":")[0]}', done.stdout
    )


def test_a_set_without_any_good_sample_is_an_error_even_if_bad_ones_are_skipped(damaged):
    cfg = Config.fromfile(damaged / 'cracks.py')
    init_default_scope('mmseg')
    for path in (damaged / 'data/cracks/train/images').iterdir():
        path.write_bytes(b'')
    settings = dict(cfg.train_dataloader.dataset, data_root=str(damaged / 'data/cracks'), skip_bad_samples=True)
    dataset = DATASETS.build(settings)
    with pytest.raises(UserError, match='none of the 8 training samples can be used'):
        dataset[0]


def test_validation_skips_no_sample(tool, damaged):
    bad = damaged / 'data/cracks/val/images/ADE_val_00000001.jpg'
    bad.write_bytes(bad.read_bytes()[:0])
    options = [f'{split}_dataloader.dataset.skip_bad_samples=True' for split in ('train', 'val')]
    done = tool('train.py', 'cracks.py', '--cfg-options', *FAST, *SHORT['cracks'], *options, cwd=damaged)
    assert done.returncode == 1 and 'ADE_val_00000001.jpg: empty file' in done.stdout.splitlines()[-1]
